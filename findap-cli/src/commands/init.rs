//! `findap init`: a first recipe for one's own model and data.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use findap_data::encode::RecordEncoder;
use findap_data::readers::FIELDS;
use findap_data::reward_model::{EXERCISE_FIELDS, ExerciseFiles, read_exercises};
use findap_data::{ChatTemplate, Domain, Format, Kind, Tokenizer};
use findap_eval::Registry;
use findap_model::{Config, Decoder, text_directory};
use findap_tensor::probe;
use findap_train::recipe::draft::{Draft, DraftJudge, DraftModel, DraftSource};
use findap_train::recipe::parse;

use crate::survey::{self, MOST_ROWS, survey};
use crate::terminal;

/// Writes a first recipe for your model and data, which it reads and checks
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  findap init                       a recipe with placeholders to edit
  findap init --model models/Llama-3.2-1B-Instruct \\
      --texts 'data/filings-*.parquet' --chats data/questions.jsonl
  findap init --model models/Llama-3.2-1B-Instruct \\
      --chats data/questions.jsonl --exercises data/exercises.jsonl \\
      --judge-url http://localhost:8000/v1 --judge-model judge --tasks fpb,mmlu_finance,gsm8k")]
pub(crate) struct Arguments {
    /// The base model: a Hugging Face folder
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Texts: a file, a folder or a pattern in quotes; may be given several times
    #[arg(long, value_name = "GLOB")]
    texts: Vec<String>,
    /// Conversations, or questions and answers; may be given several times
    #[arg(long, value_name = "GLOB")]
    chats: Vec<String>,
    /// Preference pairs; may be given several times
    #[arg(long, value_name = "GLOB")]
    pairs: Vec<String>,
    /// Exercises for preference distillation
    #[arg(long, value_name = "FILE")]
    exercises: Option<PathBuf>,
    /// A column under another name than ours, such as instruction=Frage, in every file that has it; may be given several times
    #[arg(long = "columns", value_name = "OURS=THEIRS", value_parser = column, value_delimiter = ',')]
    columns: Vec<(String, String)>,
    /// What the files are about, for reports: finance or general
    #[arg(long, value_name = "NAME", default_value = "finance", value_parser = domain)]
    domain: Domain,
    /// The judge's OpenAI-compatible server, with /v1
    #[arg(long, value_name = "URL", requires_all = ["judge_model", "exercises"])]
    judge_url: Option<String>,
    /// The judge's name on that server
    #[arg(long, value_name = "NAME", requires = "judge_url")]
    judge_model: Option<String>,
    /// Evaluation tasks and @groups, comma-separated
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    tasks: Vec<String>,
    /// The recipe to write
    #[arg(long, value_name = "FILE", default_value = "recipe.toml")]
    output: PathBuf,
    /// Replace the recipe if it is there
    #[arg(long)]
    force: bool,
}

fn column(text: &str) -> Result<(String, String), String> {
    let is_ours = |name: &str| FIELDS.contains(&name) || EXERCISE_FIELDS.contains(&name);
    match text.split_once('=') {
        Some((ours, theirs)) if is_ours(ours) && !theirs.is_empty() => Ok((ours.to_owned(), theirs.to_owned())),
        Some((ours, _)) if !is_ours(ours) => {
            Err(format!("{ours:?} is no field of rows or exercises, such as prompt, completion, text"))
        }
        _ => Err("write OURS=THEIRS".to_owned()),
    }
}

fn domain(text: &str) -> Result<Domain, String> {
    Domain::ALL.into_iter().find(|domain| domain.name() == text).ok_or_else(|| "is finance or general".to_owned())
}

pub(crate) fn execute(arguments: &Arguments) -> Result<()> {
    let output = &arguments.output;
    if output.exists() && !arguments.force {
        bail!("{} is there; give another --output, or --force to replace it", output.display());
    }
    let model = arguments.model.as_deref().map(read_model).transpose()?;
    let given: BTreeMap<String, String> = arguments.columns.iter().cloned().collect();
    let sources = sources(arguments, &given)?;
    let mut exercise_columns = BTreeMap::new();
    if let Some(path) = &arguments.exercises {
        exercise_columns = survey::exercise_columns(path, &given)?;
        let columns = exercise_columns.clone();
        let files = ExerciseFiles { paths: vec![path.clone()], format: Format::Auto, columns };
        let exercises = read_exercises(&files, None)?;
        if exercises.is_empty() {
            bail!("{}: no exercise", path.display());
        }
        println!("exercises  {}: {}", path.display(), exercises.len());
        say_columns(&exercise_columns);
    }
    let taken = |column: &&String| {
        let of_sources = sources.iter().flat_map(|source| source.columns.values());
        of_sources.chain(exercise_columns.values()).any(|theirs| theirs == *column)
    };
    if let Some(column) = given.values().find(|column| !taken(column)) {
        bail!("--columns: no file that is named has the column `{column}`");
    }
    let draft = Draft {
        name: run_name(output),
        model,
        sources,
        exercises: arguments.exercises.clone(),
        exercise_columns,
        domain: Some(arguments.domain),
        judge: arguments
            .judge_url
            .clone()
            .zip(arguments.judge_model.clone())
            .map(|(url, model)| DraftJudge { url, model }),
        task_roots: task_roots(&arguments.tasks)?,
        tasks: arguments.tasks.clone(),
        gpu_memory_bytes: probe().devices().first().map(|gpu| gpu.memory_bytes as u64),
    };
    let text = draft.text();
    // What cannot be read back is never written.
    parse(&text, output, &[])?;
    findap_train::folder::write_whole(output, text.as_bytes())
        .with_context(|| format!("cannot write {}", output.display()))?;
    advise(&draft, output);
    Ok(())
}

fn read_model(folder: &Path) -> Result<DraftModel> {
    let config = Config::load(folder)?;
    let model = DraftModel {
        folder: folder.to_path_buf(),
        num_parameters: Decoder::num_parameters(&config),
        stored_dtype: config.stored_dtype().map(str::to_owned),
        max_positions: config.max_positions,
    };
    println!(
        "model      {}: {}, {} parameters in {}, contexts of up to {} tokens",
        folder.display(),
        config.family.model_type(),
        model.size(),
        model.stored_dtype.as_deref().unwrap_or("a format that its config does not name"),
        model.max_positions
    );
    Ok(model)
}

fn say_columns(columns: &BTreeMap<String, String>) {
    for (ours, theirs) in columns {
        println!("           its column `{theirs}` is taken as `{ours}`");
    }
}

/// Reads every source that is named.
fn sources(arguments: &Arguments, given_columns: &BTreeMap<String, String>) -> Result<Vec<DraftSource>> {
    let tools = match &arguments.model {
        Some(folder) => {
            let folder = text_directory(folder)?;
            Some((Tokenizer::load(&folder)?, ChatTemplate::find(&folder)?))
        }
        None => None,
    };
    // No row is too long to be counted.
    let encoder = tools.as_ref().map(|(tokenizer, template)| RecordEncoder {
        tokenizer,
        template: template.as_ref(),
        context_tokens: usize::MAX / 2,
    });
    let given = [(Kind::Text, &arguments.texts), (Kind::Chat, &arguments.chats), (Kind::Preference, &arguments.pairs)];
    let mut names = BTreeSet::new();
    let mut found = Vec::new();
    for (kind, path) in given.into_iter().flat_map(|(kind, paths)| paths.iter().map(move |path| (kind, path))) {
        let source = survey(source_name(path, kind, &mut names), path, kind, encoder, given_columns)?;
        let which = if source.is_whole { "" } else { " of the first rows" };
        let guessed = if encoder.is_some() { "" } else { " (guessed: there is no --model)" };
        println!(
            "{:<10} {path}: rows{which}: {}, tokens: {}, in the longest row: {}{guessed}",
            kind.name(),
            source.num_rows(),
            source.num_tokens(),
            source.longest_tokens()
        );
        say_columns(&source.columns);
        if source.num_tokens() == 0 {
            bail!("{path}: its rows are empty");
        }
        found.push(source);
    }
    Ok(found)
}

/// A name for a source that no other has, from its file's name.
fn source_name(path: &str, kind: Kind, taken: &mut BTreeSet<String>) -> String {
    let plain = |part: &str| -> String {
        let stem = part.split('.').next().unwrap_or_default();
        let plain: String = stem.chars().filter(|c| c.is_ascii_alphanumeric() || "-_".contains(*c)).take(60).collect();
        plain.trim_matches(['-', '_']).to_owned()
    };
    // Files named by numbers are called as their folder is.
    let of_words = |name: &String| name.contains(|c: char| c.is_ascii_alphabetic());
    let plain = path.rsplit('/').map(plain).find(of_words).unwrap_or_default();
    // The second is reserved for the pairs of a distillation.
    let name = if plain.is_empty() || plain == "preferences" { format!("own-{}", kind.name()) } else { plain };
    let numbered = (2..).map(|number| format!("{name}-{number}"));
    let free = std::iter::once(name.clone()).chain(numbered).find(|name| !taken.contains(name)).unwrap_or(name);
    taken.insert(free.clone());
    free
}

/// The run's name: that of its recipe.
fn run_name(output: &Path) -> String {
    let stem = output.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let plain: String = stem.chars().filter(|c| c.is_ascii_alphanumeric() || "-_".contains(*c)).take(60).collect();
    if plain.is_empty() { "recipe".to_owned() } else { plain }
}

/// The roots of the tasks' data sets, for which a folder is given.
fn task_roots(tasks: &[String]) -> Result<Vec<String>> {
    if tasks.is_empty() {
        return Ok(Vec::new());
    }
    let selected = Registry::builtin()?.select(tasks.iter().map(String::as_str))?;
    let root = |path: &str| path.split_once(':').map(|(root, _)| root.to_owned());
    let roots: BTreeSet<String> = selected.iter().filter_map(|task| root(&task.dataset.path)).collect();
    if let Some(task) = selected.iter().find(|task| task.dataset.path.starts_with("world:")) {
        bail!(
            "the task `{}` asks about the closed world, which is no part of your data; name others, such as \
             fpb, ner, tatqa, mmlu_finance, mmlu, gsm8k, or leave --tasks out",
            task.name
        );
    }
    Ok(roots.into_iter().collect())
}

/// Says what was written, what may be amiss, and what to do next.
fn advise(draft: &Draft, output: &Path) {
    let path = output.display();
    println!("\nwrote {path}");
    let of = |kind| draft.sources.iter().filter(move |source| source.kind == kind);
    let rows = |kind| of(kind).map(|source| source.num_rows()).sum::<u64>();
    let (texts, chats) = (rows(Kind::Text), rows(Kind::Chat));
    let mut notes = Vec::new();
    if draft.model.is_none() || (draft.sources.is_empty() && draft.exercises.is_none()) {
        notes.push(format!("edit the lines of {path} that stand below EDIT"));
    }
    if draft.exercises.is_some() && draft.judge.is_none() {
        notes.push("name the judge of the distillation: its server and its model".to_owned());
    }
    if texts > 0 && chats == 0 {
        notes.push("texts alone make a model forget how to answer: add conversations (--chats)".to_owned());
    }
    let partial: Vec<&str> = draft.sources.iter().filter(|it| !it.is_whole).map(|it| it.name.as_str()).collect();
    if !partial.is_empty() {
        let names = partial.join(", ");
        notes.push(format!(
            "{names}: only the first {MOST_ROWS} rows were looked at; what is said of them is true of these alone"
        ));
    }
    for source in &draft.sources {
        let context = draft.context_of(source.kind);
        let num_too_long = source.num_too_long(context);
        if num_too_long > 0 {
            let (name, of) = (&source.name, source.num_rows());
            notes.push(format!(
                "{name}: {num_too_long} of {of} rows are longer than the context of {context} tokens and are left out"
            ));
        }
    }
    if chats > 0 && texts > 2 * chats && partial.is_empty() {
        notes.push(format!(
            "only as many texts as there are conversations are used ({chats} of {texts} rows); `downsample = false` uses all"
        ));
    }
    if !draft.sources.is_empty() {
        notes.push(
            "mix in general texts and conversations (domain = \"general\"), or the model forgets what it knew"
                .to_owned(),
        );
    }
    if !draft.task_roots.is_empty() {
        notes.push("put the data sets of the tasks below data/eval; `findap tasks NAME` says which file".to_owned());
    }
    for note in notes {
        println!("{}", terminal::paragraph("- ", &note));
    }
    let argument = terminal::shell_word(&path.to_string());
    println!("\nnext:  findap plan {argument}\nthen:  findap run {argument}");
}
