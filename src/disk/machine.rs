//! The user, the machine, its file systems and its clock.

use std::{
    io,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use super::error::{DiskError, FileOperation};

/// The name of the user, or the number of a user without a name.
pub fn user() -> String {
    let number = uzers::get_current_uid();
    match uzers::get_user_by_uid(number) {
        Some(user) => user.name().to_string_lossy().into_owned(),
        None => number.to_string(),
    }
}

/// The name of the machine.
pub fn host() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

/// The signal for a write beyond the limit on the size of files (SIGXFSZ).
pub fn file_size_signal() -> i32 {
    Signal::XFSZ.as_raw()
}

/// Fills the buffer with random bytes that nobody can predict.
pub fn fill_random(mut bytes: &mut [u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let count = rustix::rand::getrandom(&mut *bytes, rustix::rand::GetRandomFlags::empty())?;
        bytes = &mut bytes[count..];
    }
    Ok(())
}

/// The same for callers whose errors are those of a disk.
pub fn random<const N: usize>() -> Result<[u8; N], DiskError> {
    let mut bytes = [0; N];
    let place = Path::new("/dev/urandom");
    let filled = fill_random(&mut bytes);
    filled.map_err(|cause| DiskError::io(FileOperation::Read, place, cause))?;
    Ok(bytes)
}

/// Whether there is a process of this number.
pub fn is_running(process: u32) -> bool {
    Path::new("/proc").join(process.to_string()).exists()
}

/// Asks a process that this one started, and that has not been waited for, to end (SIGTERM).
pub fn terminate(process: u32) -> io::Result<()> {
    Ok(kill_process(numbered(process)?, Signal::TERM)?)
}

/// Kills a process that leads a group of its own, with all that it started (SIGKILL).
pub fn kill_group(leader: u32) -> io::Result<()> {
    Ok(kill_process_group(numbered(leader)?, Signal::KILL)?)
}

fn numbered(process: u32) -> io::Result<Pid> {
    let process = i32::try_from(process).ok().and_then(Pid::from_raw);
    process.ok_or(io::ErrorKind::NotFound.into())
}

/// Whether syncfs(2) fails if a file could not be written: since Linux 5.8.
pub fn syncfs_reports_failures() -> bool {
    let name = rustix::system::uname();
    name.release().to_str().is_ok_and(is_since_5_8)
}

fn is_since_5_8(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut next = || numbers.next()?.parse::<u32>().ok();
    next().zip(next()).is_some_and(|version| version >= (5, 8))
}

/// Seconds since 1970.
pub fn unix_time() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// Lets this process have as many descriptors open as it may allow itself.
pub fn raise_descriptors_max() {
    let kind = rustix::process::Resource::Nofile;
    let mut limit = rustix::process::getrlimit(kind);
    limit.current = limit.maximum;
    // Where the system refuses it, the limit stays as it was.
    let _ = rustix::process::setrlimit(kind, limit);
}

/// How many descriptors this process may have open.
pub fn descriptors_max() -> u64 {
    rustix::process::getrlimit(rustix::process::Resource::Nofile)
        .current
        .unwrap_or(u64::MAX)
}

/// The permission bits of a new file of the user.
pub fn default_mode() -> u32 {
    // The system call that reads the umask also sets it, which another thread could see; /proc shows it without that.
    let umask = std::fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| {
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix("Umask:"))?;
            u32::from_str_radix(line.trim(), 8).ok()
        })
        .unwrap_or(0o022);
    0o666 & !umask
}

/// These permission bits for a file that everybody who may read it may also execute, or nobody.
pub fn executable_mode(mode: u32, is_executable: bool) -> u32 {
    match is_executable {
        true => mode | (mode & 0o444) >> 2,
        false => mode & !0o111,
    }
}

/// Whether a store to a mapped page of a file in this folder may need room on the disk: the file system writes each changed page to
/// a new place, or a page has several blocks, of which not all are there.
pub fn mapped_stores_need_room(folder: &Path) -> bool {
    const BTRFS: u32 = 0x9123_683e;
    const ZFS: u32 = 0x2fc1_2fc1;
    const BCACHEFS: u32 = 0xca45_1a4e;
    const PAGE: u64 = 4096;
    rustix::fs::statfs(folder).is_ok_and(|system| {
        // Of other widths on other systems.
        let (kind, block) = (system.f_type as u32, system.f_bsize as u64);
        [BTRFS, ZFS, BCACHEFS].contains(&kind) || block < PAGE
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_of_the_kernel() {
        for since in ["5.8.0", "5.10.0-8-amd64", "6.18.44-fc-v445", "10.0"] {
            assert!(is_since_5_8(since), "{since}");
        }
        for before in ["4.18.0-553.el8_10.x86_64", "5.7.19", "5", "", "x"] {
            assert!(!is_since_5_8(before), "{before}");
        }
    }

    #[test]
    fn who_may_read_may_execute() {
        for (mode, executable) in [
            (0o644, 0o755),
            (0o600, 0o700),
            (0o640, 0o750),
            (0o666, 0o777),
        ] {
            assert_eq!(executable_mode(mode, true), executable, "{mode:o}");
            assert_eq!(executable_mode(executable, false), mode, "{mode:o}");
        }
    }
}
