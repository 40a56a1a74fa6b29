//! `findap help`: a command, or the keys of the files that users write.

use anyhow::{Result, bail};
use clap::Command;
use serde_json::Value;

use crate::keys::{self, Key};

/// Explains a command, or the keys of a recipe or of a task file
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  findap help eval                           the command `findap eval`
  findap help recipe                         every key of a recipe
  findap help recipe stage.distill           the keys of one table
  findap help recipe learning_rate           a key, wherever it stands
  findap help task generate.extract          the same for task files
  findap help recipe --json > recipe.schema.json    for editors of TOML")]
pub(crate) struct Arguments {
    /// A command, `recipe` or `task`
    #[arg(value_name = "TOPIC")]
    topic: Option<String>,
    /// A command's own command, or a key or a table of a recipe or of a task file
    #[arg(value_name = "KEY")]
    key: Option<String>,
    /// Print the JSON Schema of recipes or task files
    #[arg(long)]
    json: bool,
    /// Print the keys as Markdown
    #[arg(long, conflicts_with = "json")]
    markdown: bool,
}

/// `whole` is the command line's own description.
pub(crate) fn execute(arguments: &Arguments, whole: Command) -> Result<()> {
    let schema = match arguments.topic.as_deref() {
        Some("recipe") => findap_train::recipe::schema(),
        Some("task") => findap_eval::task::schema(),
        _ if arguments.json || arguments.markdown => {
            bail!("only the keys of `recipe` and `task` can be printed as JSON or Markdown")
        }
        _ => return explain(arguments, whole),
    };
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&schema)?);
        return Ok(());
    }
    show(arguments, &schema)
}

/// Prints the help of a command, as its `--help` does.
fn explain(arguments: &Arguments, whole: Command) -> Result<()> {
    let names: Vec<&String> = arguments.topic.iter().chain(&arguments.key).collect();
    let mut command = &whole;
    for name in &names {
        let Some(found) = command.find_subcommand(name) else {
            bail!("`{name}` is no command; `findap help` lists them, and `findap help recipe {name}` looks for a key");
        };
        command = found;
    }
    let line = ["findap"].into_iter().chain(names.iter().map(|name| name.as_str())).chain(["--help"]);
    // clap hands help over as an error.
    if let Err(help) = whole.clone().try_get_matches_from(line) {
        help.print()?;
    }
    Ok(())
}

fn show(arguments: &Arguments, schema: &Value) -> Result<()> {
    let topic = arguments.topic.as_deref().unwrap_or_default();
    let all = keys::keys(schema);
    let found = match &arguments.key {
        None => all.iter().collect(),
        Some(asked) => match keys::find(&all, asked) {
            Ok(found) => found,
            Err(similar) if similar.is_empty() => {
                bail!("a {topic} has no key `{asked}`; `findap help {topic}` lists every key")
            }
            Err(similar) => bail!("a {topic} has no key `{asked}`; did you mean {}?", similar.join(", ")),
        },
    };
    if arguments.markdown {
        print!("{}", markdown(&found));
        return Ok(());
    }
    let width = width();
    for key in found {
        print!("{}", entry(key, width));
    }
    Ok(())
}

/// Columns of the terminal; 80 where there is none.
fn width() -> usize {
    console::Term::stdout().size_checked().map_or(80, |(_, columns)| usize::from(columns).clamp(40, 100))
}

/// A key with all that is known of it, in lines of at most `width` columns.
fn entry(key: &Key, width: usize) -> String {
    let head = [Some(key.kind.clone()), key.presence()].into_iter().flatten().collect::<Vec<_>>().join("; ");
    let is_table = !key.path.contains('.');
    let mut text = if is_table { "\n".to_owned() } else { String::new() };
    text += &format!("{}\n", key.path);
    text += &wrapped(&head, "    ", "    ", width);
    for paragraph in key.text.split("\n\n") {
        text += &wrapped(paragraph, "    ", "    ", width);
    }
    for (word, meaning) in &key.words {
        text += &wrapped(&format!("{word}: {meaning}"), "      - ", "        ", width);
    }
    text
}

/// The words of a text in lines of at most `width` columns; a longer word has its own line.
fn wrapped(text: &str, first: &str, next: &str, width: usize) -> String {
    let mut lines = String::new();
    let mut line = first.to_owned();
    let mut is_empty = true;
    for word in text.split_whitespace() {
        if !is_empty && line.chars().count() + 1 + word.chars().count() > width {
            lines += &line;
            lines.push('\n');
            next.clone_into(&mut line);
            is_empty = true;
        }
        if !is_empty {
            line.push(' ');
        }
        line += word;
        is_empty = false;
    }
    lines + &line + "\n"
}

/// The keys as Markdown: a heading for each table, a line for each key.
fn markdown(keys: &[&Key]) -> String {
    let is_table = |key: &&&Key| keys.iter().any(|other| other.path.starts_with(&format!("{}.", key.path)));
    let mut text = String::new();
    let mut table = "";
    for key in keys {
        let own = key.path.rsplit_once('.').map_or("", |(table, _)| table);
        if is_table(&key) {
            table = &key.path;
            text += &format!("\n## `{}`\n\n{}\n\n", key.path, key.text.replace("\n\n", " "));
        } else {
            // A key of an outer table behind an inner one has its whole name.
            let name = if own == table { key.path.rsplit('.').next().unwrap_or_default() } else { &key.path };
            let presence = key.presence().map_or_else(String::new, |presence| format!("; {presence}"));
            text += &format!("- `{name}` ({}{presence}): {}\n", key.kind, key.text.replace("\n\n", " "));
        }
        let indent = if is_table(&key) { "" } else { "  " };
        for (word, meaning) in &key.words {
            text += &format!("{indent}- `{word}`: {}\n", meaning.replace("\n\n", " "));
        }
    }
    text
}
