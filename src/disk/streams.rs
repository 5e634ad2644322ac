//! The standard streams of this process.

use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// The longest text that is written at once, in bytes: a pipe has room for it when it can be written to (POSIX, `PIPE_BUF`).
const AT_ONCE_BYTES_MAX: usize = 4096;

/// Whether this many bytes can be written to a stream without waiting for its reader.
pub fn has_room(stream: impl AsFd, bytes: usize) -> bool {
    let mut streams = [PollFd::new(&stream, PollFlags::OUT)];
    // Files have room always, and a stream whose reader is gone fails at once: both count as ready.
    bytes <= AT_ONCE_BYTES_MAX
        && poll(&mut streams, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}
