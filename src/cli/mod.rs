//! The program: arguments in; progress, events and exit codes out. No other layer uses them.

mod access_log;
mod args;
mod aws;
mod cat;
mod config;
mod exit;
mod fetch;
mod finals;
mod gateway;
mod hints;
mod hosts;
mod input;
mod inspect;
mod keys;
mod list;
mod manifest;
mod metalink;
mod names;
mod network;
mod output;
mod password;
mod player;
mod push;
mod serve;
mod shell;
mod signals;
mod store;
mod sync;
mod targets;
mod units;
mod uploads;
mod verify;

use std::process::ExitCode;

use clap::FromArgMatches;

use args::{Cli, Command};
use exit::Exit;
use output::Output;

/// Parses the arguments, runs the command, and returns the exit code.
pub fn run() -> ExitCode {
    let typed = config::command().and_then(|command| {
        let matches = command.try_get_matches()?;
        Cli::from_arg_matches(&matches)
    });
    let cli = match typed {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are not errors; clap tells them apart.
            let _ = error.print();
            return ExitCode::from(error.exit_code() as u8);
        }
    };
    let mut output = Output::new(&cli.output);
    if let Err(cause) = signals::check_descriptors() {
        let exit = output.refuse(Exit::Failed, &hints::no_descriptors(&cause));
        return ExitCode::from(output.done(exit) as u8);
    }
    signals::survive_file_size_limit();
    let is_async = matches!(
        cli.command,
        Command::Inspect(_)
            | Command::Verify(_)
            | Command::Cat(_)
            | Command::Fetch(_)
            | Command::Gateway(_)
            | Command::Push(_)
            | Command::Serve(_)
            | Command::Sync(_)
    );
    if is_async && let Err(cause) = signals::check_threads() {
        let exit = output.refuse(Exit::Failed, &hints::no_threads(&cause));
        return ExitCode::from(output.done(exit) as u8);
    }
    let exit = match cli.command {
        Command::Manifest(args) => manifest::run(args, cli.output.store, &mut output),
        Command::Inspect(args) => signals::block_on(inspect::run(&args, &mut output)),
        Command::Verify(args) => {
            signals::block_on(verify::run(*args, cli.output.store, &mut output))
        }
        Command::Cat(args) => signals::block_on(cat::run(*args, cli.output.store, &mut output)),
        Command::Gateway(args) => {
            signals::block_on(gateway::run(*args, cli.output.store, &mut output))
        }
        Command::Keygen(args) => keys::keygen(&args, &mut output),
        Command::Sign(args) => keys::sign(&args, cli.output.store, &mut output),
        Command::Fetch(args) if fetch::has_several(&args) => {
            signals::block_on_this_thread(|transfers| {
                fetch::run(*args, cli.output.store, Some(transfers), &mut output)
            })
        }
        Command::Fetch(args) => {
            signals::block_on(fetch::run(*args, cli.output.store, None, &mut output))
        }
        Command::Push(args) => signals::block_on(push::run(*args, cli.output.store, &mut output)),
        Command::Sync(args) => signals::block_on(sync::run(*args, cli.output.store, &mut output)),
        Command::Hosts(args) => hosts::run(&args, cli.output.store, &mut output),
        Command::Store(args) => store::run(&args, cli.output.store, &mut output),
        Command::Completions(args) => shell::completions(&args, &mut output),
        Command::Man(args) => shell::man(&args, &mut output),
        Command::Serve(args) => signals::block_on(serve::run(args, cli.output.store, &mut output)),
    };
    output.flush();
    ExitCode::from(exit as u8)
}
