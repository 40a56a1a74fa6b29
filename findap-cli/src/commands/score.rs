//! `findap score`: the log-probability of every token of every row.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use findap_data::files::WholeFile;
use findap_data::plain_words::plain_words;
use findap_data::readers::paths::format_of_name;
use findap_data::{Batch, ChatTemplate, Format, Message, Tokenizer};
use findap_model::session::SessionOptions;
use findap_model::{Decoder, Recompute, Session, text_directory};
use serde::{Deserialize, Serialize};

use super::device::DeviceArguments;
use crate::terminal::Progress;

/// Longest input line; a longer one is refused.
const MAX_LINE_BYTES: u64 = 64 << 20;

/// Scores rows: the log-probability of each token given those before it
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Model folder (Hugging Face layout)
    model: PathBuf,
    /// JSONL with one of {"text"}, {"messages"}, {"tokens": [1, 2]}, {"docs": [[1, 2], [3, 4]]} a line; docs are packed into one row
    #[arg(long, value_name = "FILE")]
    input: PathBuf,
    /// Where the scores go, one line a row: {"tokens", "logprobs", "sum", "n"}
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    device: DeviceArguments,
}

/// One input line. Exactly one of the fields is given.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    text: Option<String>,
    messages: Option<Vec<Message>>,
    tokens: Option<Vec<u32>>,
    docs: Option<Vec<Vec<u32>>>,
}

/// One output line. `logprobs` is null at the first token of each document; `n` counts the others.
#[derive(Serialize)]
struct Scored {
    tokens: Vec<u32>,
    logprobs: Vec<Option<f64>>,
    sum: f64,
    n: usize,
}

pub(crate) fn execute(arguments: &Arguments) -> Result<()> {
    let (device, dtype) = arguments.device.open()?;
    let model = Decoder::load_to(&device, &arguments.model, dtype)
        .with_context(|| format!("cannot load the model {}", arguments.model.display()))?;
    let rows = read_rows(&arguments.input, &arguments.model, &model)?;

    let longest = rows.iter().map(Batch::num_tokens).max().unwrap_or(0);
    let options = SessionOptions {
        dtype: model.activation_dtype(),
        max_tokens: longest.max(1),
        max_positions: model.config.max_positions.min(longest.max(1)),
        recompute: Recompute::None,
        gradients: None,
        frozen_blocks: 0,
        lora: model.lora(),
    };
    let mut session = Session::on(&device, &model.config, options)?;

    let says = || {
        format!("cannot write {}: does its folder exist, is it writable, is the disk full?", arguments.output.display())
    };
    let mut output = WholeFile::create(&arguments.output).with_context(says)?;
    let mut progress = Progress::new();
    for (index, row) in rows.iter().enumerate() {
        let scored = score(&model, &mut session, row)?;
        writeln!(output, "{}", serde_json::to_string(&scored)?).with_context(says)?;
        progress.count("score", "rows", index as u64 + 1, rows.len() as u64, "");
    }
    progress.clear();
    output.commit().with_context(says)?;
    println!("{} rows scored: {}", rows.len(), arguments.output.display());
    Ok(())
}

fn score(model: &Decoder, session: &mut Session, row: &Batch) -> Result<Scored> {
    let mut logprobs = vec![None; row.num_tokens()];
    if !row.is_empty() {
        // The value at position t is that of the token at t + 1.
        let logp = session.forward(model, row.into())?.score(&row.targets)?.into_logp()?;
        for document in (0..row.num_documents()).map(|index| row.document(index)) {
            for position in document.start..document.end - 1 {
                logprobs[position + 1] = Some(logp[position]);
            }
        }
    }
    let sum = logprobs.iter().flatten().sum();
    let n = logprobs.iter().flatten().count();
    Ok(Scored { tokens: row.tokens.clone(), logprobs, sum, n })
}

/// What is said of a row with other keys, which are not passed over: one may be a key that is misspelt.
const KEYS: &str = "a row to score has one of text, messages, tokens, docs, and no other key; take out the rest";

/// Refuses a file that is no JSONL by its name.
fn require_jsonl(input: &Path) -> Result<()> {
    let is_packed = input.extension().is_some_and(|ending| ending == "gz" || ending == "zst");
    match format_of_name(input) {
        Some(Format::Csv | Format::Parquet) => {
            bail!(
                "{}: rows to score are JSONL, one object a line; write its column as {{\"text\": ...}}",
                input.display()
            )
        }
        _ if is_packed => bail!("{}: rows to score are plain JSONL; unpack it first", input.display()),
        _ => Ok(()),
    }
}

/// Reads and tokenises the whole input first, so that a bad line is found before anything is computed or written.
fn read_rows(input: &Path, model_folder: &Path, model: &Decoder) -> Result<Vec<Batch>> {
    require_jsonl(input)?;
    let file = File::open(input).with_context(|| format!("cannot read {}", input.display()))?;
    let mut text_tools = TextTools { folder: model_folder, tokenizer: None, template: None };
    let mut reader = BufReader::new(file);
    let mut rows = Vec::new();
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let length = std::io::Read::take(&mut reader, MAX_LINE_BYTES + 1)
            .read_until(b'\n', &mut line)
            .with_context(|| format!("cannot read {}", input.display()))?;
        if length == 0 {
            break;
        }
        let place = || format!("{}, line {number}", input.display());
        ensure!(length as u64 <= MAX_LINE_BYTES, "{}: longer than {MAX_LINE_BYTES} bytes", place());
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let row: Row = serde_json::from_slice(&line)
            .map_err(|error| anyhow!("{}: not a row to score: {}; {KEYS}", place(), plain_words(&error.to_string())))?;
        let documents = documents(row, &mut text_tools).with_context(place)?;
        rows.push(batch(documents, model).with_context(place)?);
    }
    Ok(rows)
}

fn batch(documents: Vec<Vec<u32>>, model: &Decoder) -> Result<Batch> {
    let mut batch = Batch::new();
    for ids in documents {
        let limit = model.config.max_positions;
        ensure!(ids.len() <= limit, "{} tokens, the model reads {limit}: split the document", ids.len());
        if let Some(bad) = ids.iter().find(|&&id| id as usize >= model.config.vocab_size) {
            bail!("tokens: id {bad} is outside the model's vocabulary of {}", model.config.vocab_size);
        }
        batch.push_unmasked(&ids);
    }
    Ok(batch)
}

fn documents(row: Row, tools: &mut TextTools<'_>) -> Result<Vec<Vec<u32>>> {
    match row {
        Row { text: Some(text), messages: None, tokens: None, docs: None } => {
            Ok(vec![tools.tokenizer()?.encode(&text, true)?])
        }
        Row { text: None, messages: Some(messages), tokens: None, docs: None } => {
            tools.tokenizer()?;
            tools.template()?;
            let (Some(tokenizer), Some(template)) = (&tools.tokenizer, &tools.template) else {
                bail!("invariant: both were just loaded")
            };
            Ok(vec![template.encode_conversation(tokenizer, &messages)?.ids])
        }
        Row { text: None, messages: None, tokens: Some(tokens), docs: None } => Ok(vec![tokens]),
        Row { text: None, messages: None, tokens: None, docs: Some(docs) } => Ok(docs),
        _ => bail!("give exactly one of text, messages, tokens, docs"),
    }
}

/// Tokenizer and template of the model folder, loaded when the first row asks for them: rows of ids need neither.
struct TextTools<'a> {
    folder: &'a Path,
    tokenizer: Option<Tokenizer>,
    template: Option<ChatTemplate>,
}

impl TextTools<'_> {
    fn tokenizer(&mut self) -> Result<&Tokenizer> {
        if self.tokenizer.is_none() {
            self.tokenizer = Some(Tokenizer::load(&text_directory(self.folder)?)?);
        }
        self.tokenizer.as_ref().context("invariant: just loaded")
    }

    fn template(&mut self) -> Result<&ChatTemplate> {
        if self.template.is_none() {
            self.template = Some(ChatTemplate::load(&text_directory(self.folder)?)?);
        }
        self.template.as_ref().context("invariant: just loaded")
    }
}
