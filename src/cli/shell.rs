//! `sapwood completions` and `sapwood man`

use clap::CommandFactory;

use super::{
    args::{Cli, CompletionsArgs},
    exit::Exit,
    output::Output,
};

pub fn completions(args: &CompletionsArgs, output: &mut Output) -> Exit {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "sapwood", &mut script);
    output.data(|stdout| stdout.write_all(&script))
}

/// One page: the program, then each of its commands.
pub fn man(output: &mut Output) -> Exit {
    let mut page = Vec::new();
    let mut command = Cli::command();
    // The commands take over what all of them have.
    command.build();
    let rendered = clap_mangen::Man::new(command.clone()).render(&mut page);
    let rendered = command
        .get_subcommands()
        .filter(|command| command.get_name() != "help")
        .fold(rendered, |before, command| {
            before?;
            let man = clap_mangen::Man::new(command.clone());
            man.render_name_section(&mut page)?;
            man.render_synopsis_section(&mut page)?;
            man.render_options_section(&mut page)
        });
    match rendered {
        Ok(()) => output.data(|stdout| stdout.write_all(&page)),
        Err(_) => Exit::Failed,
    }
}
