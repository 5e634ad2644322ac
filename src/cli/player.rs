//! Programs that are started: the player that the gateway was given, the browser of the desktop, and the command that a server runs
//! for each published object. No other file starts any.

use std::{
    ffi::OsString,
    io,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use tokio::{
    io::AsyncWriteExt,
    process::{Child, Command},
    time::timeout,
};

use crate::disk::machine;

/// How long a player may take to end after it was asked to.
const END_TIME: Duration = Duration::from_secs(2);
/// Opens a URL in the browser of the desktop.
const OPENER: &str = "xdg-open";
/// Stands for the URLs among the words of a player's command.
const PLACE: &str = "{}";

/// A running player. It has the terminal.
pub struct Player {
    name: String,
    child: Child,
}

impl Player {
    /// Starts a command. `{}` in it is replaced by the URLs; without one they come last. What it prints goes to `stdout`.
    pub fn start(words: &[String], urls: &[String], stdout: Stdio) -> Result<Player, String> {
        let words = command(words, urls);
        let Some((name, arguments)) = words.split_first() else {
            return Err("there is no player to start".to_owned());
        };
        let child = Command::new(name)
            .args(arguments)
            // A proxy does not reach this machine's loopback interface.
            .env("no_proxy", without_proxy("no_proxy"))
            .env("NO_PROXY", without_proxy("NO_PROXY"))
            .stdout(stdout)
            .kill_on_drop(true)
            .spawn()
            .map_err(|cause| format!("failed to start {name}: {cause}; check its name"))?;
        let name = name.clone();
        Ok(Player { name, child })
    }

    /// Waits until it ends. An error: it did not end well.
    pub async fn ended(&mut self) -> Result<(), String> {
        match self.child.wait().await {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(format!("{} ended with {}", self.name, reason(status))),
            Err(cause) => Err(format!("failed to wait for {}: {cause}", self.name)),
        }
    }

    /// Ends it, if it still runs.
    pub async fn end(mut self) {
        if let Some(process) = self.child.id() {
            let _ = machine::terminate(process);
            // What does not end by then is killed when it is dropped.
            let _ = timeout(END_TIME, self.child.wait()).await;
        }
    }
}

fn reason(status: ExitStatus) -> String {
    match status.code() {
        Some(code) => format!("exit code {code}"),
        None => status.to_string(),
    }
}

/// The words of a command with the URLs in their place. A word with more than the place in it is repeated for each URL.
fn command(words: &[String], urls: &[String]) -> Vec<String> {
    let has_place = words.iter().any(|word| word.contains(PLACE));
    let place = PLACE.to_owned();
    let appended = (!has_place).then_some(&place);
    words
        .iter()
        .chain(appended)
        .flat_map(|word| match word.contains(PLACE) {
            true => urls.iter().map(|url| word.replace(PLACE, url)).collect(),
            false => vec![word.clone()],
        })
        .collect()
}

/// The hosts that are reached without a proxy, and the loopback interface.
fn without_proxy(variable: &str) -> OsString {
    let mut hosts = OsString::from("127.0.0.1,localhost,::1");
    if let Some(others) = std::env::var_os(variable).filter(|others| !others.is_empty()) {
        hosts.push(",");
        hosts.push(others);
    }
    hosts
}

/// Opens a URL in the browser of the desktop, without waiting for it.
pub fn open_in_browser(url: &str) -> io::Result<()> {
    let null = Stdio::null;
    let mut opener = Command::new(OPENER);
    opener.arg(url).stdin(null()).stdout(null()).stderr(null());
    opener.spawn().map(drop)
}

/// A shell with all that it started, which ends when this is dropped.
struct Group(Option<u32>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0 {
            let _ = machine::kill_group(leader);
        }
    }
}

/// Runs a command of the operator in a shell, with these variables and this on its standard input, to its end or until the time is
/// over. An error: it did not end well.
pub async fn run_in_shell(
    command: &str,
    variables: &[(&str, String)],
    input: &str,
    time: Duration,
) -> Result<(), String> {
    let mut shell = Command::new("sh");
    shell
        .args(["-c", command])
        .envs(variables.iter().cloned())
        .stdin(Stdio::piped())
        // Standard output is for the URL and the events of this program.
        .stdout(Stdio::null())
        // What it starts is killed with it.
        .process_group(0)
        .kill_on_drop(true);
    let failed = |cause: io::Error| format!("failed to run {command}: {cause}");
    let mut child = shell.spawn().map_err(failed)?;
    let mut group = Group(child.id());
    let stdin = child.stdin.take();
    let ended = async {
        if let Some(mut stdin) = stdin {
            // It may end without reading.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
        child.wait().await
    };
    let ended = timeout(time, ended).await;
    if ended.is_ok() {
        // What it left running was meant to go on.
        group.0 = None;
    }
    match ended {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(format!("{command} ended with {}", reason(status))),
        Ok(Err(cause)) => Err(failed(cause)),
        Err(_) => Err(format!(
            "{command} took more than {} s and was killed",
            time.as_secs()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_take_their_place() {
        for (typed, meant) in [
            ("mpv {}", "mpv a b"),
            ("mpv --mute=yes", "mpv --mute=yes a b"),
            ("vlc {} vlc://quit", "vlc a b vlc://quit"),
            ("ffprobe --file={}", "ffprobe --file=a --file=b"),
        ] {
            let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
            assert_eq!(
                command(&words(typed), &words("a b")),
                words(meant),
                "{typed}"
            );
        }
    }
}
