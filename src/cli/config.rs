//! The configuration file: flags by their names, below the variables and the command line.
//!
//! What it says becomes the default of a flag, so that clap itself puts the variables and the command line above it.

use std::{io, ops::Range, path::PathBuf};

use clap::{
    Arg, ArgAction, Command, Error,
    error::ErrorKind::{self, DisplayHelp, DisplayVersion},
};
use toml::de::{DeTable, DeValue};

use super::args;

/// A flag that means something else in one command: there it is set in the table of that command only.
const ONLY_IN_ITS_TABLE: [(&str, &str); 1] = [("sign", "key")];

/// The commands, with what the file says as their defaults. An error names the file and the line.
pub fn command() -> Result<Command, Error> {
    let Some(file) = file() else {
        return Ok(args::command());
    };
    let text = match std::fs::read_to_string(&file) {
        Ok(text) => text,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(args::command()),
        // A file in place of a folder on the way.
        Err(cause) if cause.kind() == io::ErrorKind::NotADirectory => return Ok(args::command()),
        Err(cause) => {
            return Err(invalid(&format!(
                "failed to read {}: {cause}",
                file.display()
            )));
        }
    };
    configured(args::command(), &text).map_err(|wrong| {
        // Help is there always.
        match args::command().try_get_matches() {
            Err(help) if matches!(help.kind(), DisplayHelp | DisplayVersion) => help,
            _ => {
                let line = 1 + text[..wrong.at.start.min(text.len())].matches('\n').count();
                let message = format!("{}, line {line}: {}", file.display(), wrong.message);
                invalid(&message)
            }
        }
    })
}

fn invalid(message: &str) -> Error {
    Error::raw(ErrorKind::InvalidValue, format!("{message}\n"))
}

/// `sapwood/config.toml` in the folder for configurations.
fn file() -> Option<PathBuf> {
    let absolute = |name| {
        let path = std::env::var_os(name).map(PathBuf::from);
        path.filter(|path| path.is_absolute())
    };
    let base = absolute("XDG_CONFIG_HOME").or_else(|| Some(absolute("HOME")?.join(".config")))?;
    Some(base.join("sapwood/config.toml"))
}

/// What is wrong, and where in the text.
#[derive(Debug)]
struct Wrong {
    at: Range<usize>,
    message: String,
}

/// A flag and its values.
struct Setting<'t> {
    name: &'t str,
    value: &'t DeValue<'t>,
    at: Range<usize>,
}

impl Setting<'_> {
    fn wrong(&self, message: String) -> Wrong {
        let at = self.at.clone();
        Wrong { at, message }
    }
}

/// The commands with these defaults. A key above all tables is for every command that has this flag, a table for one command.
fn configured(mut command: Command, text: &str) -> Result<Command, Wrong> {
    let parsed = DeTable::parse(text).map_err(|cause| Wrong {
        at: cause.span().unwrap_or_default(),
        message: cause.message().to_owned(),
    })?;
    let table = parsed.get_ref();
    let commands: Vec<String> = command
        .get_subcommands()
        .map(|one| one.get_name().to_owned())
        .collect();
    for setting in settings(table).filter(|setting| !setting.value.is_table()) {
        let mut is_known = false;
        command = set(command, &setting, &mut is_known)?;
        for name in &commands {
            if !ONLY_IN_ITS_TABLE.contains(&(name, setting.name)) {
                command = set_of(command, name, &setting, &mut is_known)?;
            }
        }
        if !is_known {
            return Err(setting.wrong(format!("there is no flag --{}", setting.name)));
        }
    }
    for setting in settings(table) {
        let Some(of_command) = setting.value.as_table() else {
            continue;
        };
        if !commands.iter().any(|name| name == setting.name) {
            return Err(setting.wrong(format!("there is no command sapwood {}", setting.name)));
        }
        for flag in settings(of_command) {
            let mut is_known = false;
            command = set_of(command, setting.name, &flag, &mut is_known)?;
            if !is_known {
                let message = format!(
                    "sapwood {} has no flag --{} of its own",
                    setting.name, flag.name
                );
                return Err(flag.wrong(message));
            }
        }
    }
    Ok(command)
}

fn settings<'t>(table: &'t DeTable<'t>) -> impl Iterator<Item = Setting<'t>> {
    table.iter().map(|(name, value)| Setting {
        name: name.get_ref(),
        value: value.get_ref(),
        at: name.span(),
    })
}

/// Sets a flag of one of the commands.
fn set_of(
    command: Command,
    name: &str,
    setting: &Setting,
    is_known: &mut bool,
) -> Result<Command, Wrong> {
    let mut wrong = None;
    let command = command.mut_subcommand(name, |one| {
        let unchanged = one.clone();
        set(one, setting, is_known).unwrap_or_else(|cause| {
            wrong = Some(cause);
            unchanged
        })
    });
    wrong.map_or(Ok(command), Err)
}

/// Sets a flag, if the command itself has it.
fn set(command: Command, setting: &Setting, is_known: &mut bool) -> Result<Command, Wrong> {
    let has_name = |arg: &&Arg| arg.get_long() == Some(setting.name) && !arg.is_required_set();
    let Some(arg) = command.get_arguments().find(has_name).cloned() else {
        return Ok(command);
    };
    let values = values(&arg, setting)?;
    check(&arg, &values, setting)?;
    *is_known = true;
    Ok(command.mut_arg(arg.get_id(), |arg| {
        let is_secret = arg.is_hide_env_values_set();
        arg.default_values(values).hide_default_value(is_secret)
    }))
}

/// The values of a flag, as they would be typed.
fn values(arg: &Arg, setting: &Setting) -> Result<Vec<String>, Wrong> {
    let one = |value: &DeValue| match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) if number.radix() == 10 => Some(number.as_str().to_owned()),
        DeValue::Float(number) => Some(number.as_str().to_owned()),
        _ => None,
    };
    let (values, wanted) = match (arg.get_action(), setting.value) {
        (ArgAction::SetTrue, value) => {
            let value = value.as_bool().map(|value| vec![value.to_string()]);
            (value, "true or false")
        }
        (ArgAction::Count, value) => {
            let count = one(value).filter(|count| count.parse::<u8>().is_ok());
            (count.map(|count| vec![count]), "a small number")
        }
        (ArgAction::Append, DeValue::Array(all)) => {
            let all = all.iter().map(|value| one(value.get_ref())).collect();
            (all, "a list of strings or numbers")
        }
        (_, value) => (one(value).map(|value| vec![value]), "a string or a number"),
    };
    values.ok_or_else(|| setting.wrong(format!("the value of {} is {wanted}", setting.name)))
}

/// Refuses values that the command line would refuse.
fn check(arg: &Arg, values: &[String], setting: &Setting) -> Result<(), Wrong> {
    if matches!(arg.get_action(), ArgAction::SetTrue | ArgAction::Count) {
        return Ok(());
    }
    let typed = values
        .iter()
        .map(|value| format!("--{}={value}", setting.name));
    // The flag alone: neither variables nor other flags count.
    let alone = Arg::new(setting.name.to_owned())
        .long(setting.name.to_owned())
        .action(arg.get_action().clone())
        .value_parser(arg.get_value_parser().clone())
        .value_names(arg.get_value_names().unwrap_or_default().iter().cloned())
        .ignore_case(arg.is_ignore_case_set());
    let mut alone = Command::new("sapwood").no_binary_name(true).arg(alone);
    match alone.try_get_matches_from_mut(typed) {
        Err(cause)
            if matches!(
                cause.kind(),
                ErrorKind::InvalidValue | ErrorKind::ValueValidation
            ) =>
        {
            let text = cause.to_string();
            let lines = text.lines().take_while(|line| !line.is_empty());
            let message: Vec<&str> = lines.map(str::trim).collect();
            let message = message.join(" ");
            let message = message.trim_start_matches("error: ").to_owned();
            Err(setting.wrong(message))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, FromArgMatches};

    use super::*;
    use crate::cli::args::{Cli, Command as Parsed};

    /// What a command line means with this file; or the line of the file and what is wrong there.
    fn parsed(text: &str, typed: &[&str]) -> Result<Cli, String> {
        let command = configured(Cli::command(), text).map_err(|wrong| {
            let line = 1 + text[..wrong.at.start].matches('\n').count();
            format!("{line}: {}", wrong.message)
        })?;
        // As in the program: clap checks its own rules in this build.
        command.clone().debug_assert();
        let matches = command
            .try_get_matches_from(typed)
            .map_err(|error| error.to_string())?;
        Cli::from_arg_matches(&matches).map_err(|error| error.to_string())
    }

    #[test]
    fn flags_by_their_names() {
        let text = "connections = 3\njson = true\nverbose = 2\nheader = ['A: b', 'C: d']\nkey = 'studio.pub'\n\
                    limit-rate = '5M'\n[fetch]\nno-clobber = true\nconnections = 7\n[sign]\nkey = 'studio.key'\n";
        let cli = parsed(
            text,
            &["sapwood", "fetch", "http://h/x", "--limit-rate", "0"],
        )
        .unwrap();
        assert!(cli.output.json && cli.output.verbose == 2);
        let Parsed::Fetch(fetch) = cli.command else {
            panic!("another command");
        };
        assert_eq!(fetch.network.connections, 7);
        assert_eq!(fetch.network.headers, ["A: b", "C: d"]);
        assert_eq!(fetch.network.limit_rate, Some(0));
        assert!(fetch.no_clobber && fetch.key.as_deref() == Some("studio.pub"));
        let cli = parsed(text, &["sapwood", "cat", "http://h/x", "--header", "E: f"]).unwrap();
        let Parsed::Cat(cat) = cli.command else {
            panic!("another command");
        };
        assert_eq!(
            (cat.network.connections, cat.network.limit_rate),
            (3, Some(5 << 20))
        );
        assert_eq!(cat.network.headers, ["E: f"]);
        let signed = ["sapwood", "sign", "x", "--attach", "y"];
        let Parsed::Sign(sign) = parsed(text, &signed).unwrap().command else {
            panic!("another command");
        };
        assert_eq!(sign.key.as_deref(), Some("studio.key"));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let typed = ["sapwood", "fetch", "http://h/x"];
        for (text, wanted) in [
            ("\nconections = 3", "2: there is no flag --conections"),
            (
                "[fetch]\nno-such = 1",
                "2: sapwood fetch has no flag --no-such of its own",
            ),
            ("[fetsch]\n", "1: there is no command sapwood fetsch"),
            (
                "connections = 'many'",
                "1: invalid value 'many' for '--connections <N>'",
            ),
            (
                "\n\nhttp = '4'",
                "3: invalid value '4' for '--http <VERSION>'",
            ),
            ("json = 'yes'", "1: the value of json is true or false"),
            (
                "connections = [1, 2]",
                "1: the value of connections is a string or a number",
            ),
            ("help = true", "1: there is no flag --help"),
            ("connections = ", "1: "),
            // In a command that is not run, too.
            (
                "[serve]\nquota = '5x'",
                "2: invalid value '5x' for '--quota <SIZE>'",
            ),
        ] {
            let wrong = parsed(text, &typed).unwrap_err();
            assert!(wrong.starts_with(wanted), "{text}: {wrong}");
        }
    }

    /// Every flag can be set, and clap accepts it as a default.
    #[test]
    fn no_flag_breaks_the_rules_of_clap() {
        for command in Cli::command().get_subcommands() {
            for arg in command.get_arguments() {
                let Some(long) = arg.get_long() else { continue };
                let value = match arg.get_action() {
                    ArgAction::SetTrue => "true",
                    ArgAction::Set => "'1'",
                    ArgAction::Append => "['1']",
                    _ => continue,
                };
                let text = format!("[{}]\n{long} = {value}", command.get_name());
                if let Ok(command) = configured(Cli::command(), &text) {
                    command.debug_assert();
                }
            }
        }
    }
}
