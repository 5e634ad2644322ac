//! `sapwood completions` and `sapwood man`

use std::io;

use clap::{Command, CommandFactory};
use clap_mangen::Man;

use super::{
    args::{self, Cli, CompletionsArgs, ManArgs, examples},
    exit::Exit,
    output::Output,
};

pub fn completions(args: &CompletionsArgs, output: &mut Output) -> Exit {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "sapwood", &mut script);
    output.data(|stdout| stdout.write_all(&script))
}

/// The page of a command, or of the program.
pub fn man(args: &ManArgs, output: &mut Output) -> Exit {
    let mut program = args::command();
    // The commands take over what all of them have.
    program.build();
    let name = args.command.as_deref().unwrap_or("sapwood");
    let command = program.find_subcommand(name).unwrap_or(&program);
    match page(command, name) {
        Ok(page) => output.data(|stdout| stdout.write_all(page.as_bytes())),
        Err(_) => Exit::Failed,
    }
}

/// `name`: of the command in the table of examples.
fn page(command: &Command, name: &str) -> io::Result<String> {
    let mut page = Vec::new();
    // What comes before and after the help are examples and exit codes, which have sections of their own here.
    let bare = command.clone().before_help("").after_help("");
    let man = Man::new(bare).title(match name {
        "sapwood" => "SAPWOOD".to_owned(),
        name => format!("SAPWOOD-{}", name.to_ascii_uppercase()),
    });
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    let mut page = String::from_utf8_lossy(&page).into_owned();
    page += ".SH EXAMPLES\n";
    for (line, what) in examples::of(name) {
        page += &format!(".TP\n.B {}\n{}\n", roff(line), roff(what));
    }
    page += ".SH ENVIRONMENT\n";
    for arg in command.get_arguments() {
        let variable = arg.get_env().map(|variable| variable.to_string_lossy());
        if let (Some(variable), Some(long)) = (variable, arg.get_long()) {
            page += &format!(
                ".TP\n.B {}\nThe same as \\fB\\-\\-{}\\fR.\n",
                roff(&variable),
                roff(long)
            );
        }
    }
    let sections = [
        ("", &examples::ENVIRONMENT[..]),
        (".SH FILES\n", &examples::FILES),
        (".SH EXIT STATUS\n", &examples::EXIT_STATUS),
    ];
    for (title, entries) in sections {
        page += title;
        for (what, text) in entries {
            page += &format!(".TP\n.B {}\n{}\n", roff(what), roff(text));
        }
    }
    page += ".SH SEE ALSO\n";
    page += match name {
        "sapwood" => "\\fBsapwood man COMMAND\\fR prints the page of a command.\n",
        _ => "\\fBsapwood\\fR(1)\n",
    };
    Ok(page)
}

/// A text of one line in the language of manual pages.
fn roff(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    match text.starts_with(['.', '\'']) {
        true => format!("\\&{text}"),
        false => text,
    }
}
