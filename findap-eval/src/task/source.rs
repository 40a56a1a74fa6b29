//! Where the rows of a task come from.

use std::collections::BTreeMap;

use regex::Regex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::extract::parse_regex;

/// Where rows come from.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Dataset {
    /// `ROOT:PATH`, where the root is given at run time, or a plain path: a file, or a pattern such as `test-*.parquet` whose
    /// files are read one after another by name. `{subset}` stands for the subset. Required.
    pub path: String,
    /// Other places where the same rows may lie, written as `path`: the one where files are is read, and two are refused.
    /// Default `[]`.
    #[serde(default)]
    pub also_at: Vec<String>,
    /// The file with solved examples; the questions' own file, without the question, where absent.
    pub fewshot_path: Option<String>,
    /// The file's format. Default `auto`.
    #[serde(default)]
    pub format: Format,
    /// Column names of a CSV file without header.
    pub columns: Option<Vec<String>>,
    /// New field name = name in the file.
    #[serde(default)]
    pub rename: BTreeMap<String, String>,
    /// Keep only the first row of each value of this field (FLARE files repeat a text under ten prompts).
    pub unique_by: Option<String>,
    /// Keep only rows whose field has one of these values.
    #[serde(default)]
    pub keep: BTreeMap<String, Vec<String>>,
    /// Keep only rows in which each of these fields is a number. Default `[]`.
    #[serde(default)]
    pub keep_numbers: Vec<String>,
    /// New fields that are lists, cut from a text by a regular expression. Default `{}`.
    #[serde(default)]
    pub lists: BTreeMap<String, ListPattern>,
    /// Which split the file is, for the record.
    #[serde(default = "test_split")]
    pub split: String,
    /// Parts of the benchmark with a file each.
    #[serde(default)]
    pub subsets: Vec<String>,
    /// How the score over subsets is formed.
    #[serde(default)]
    pub subset_mean: SubsetMean,
}

/// A list that is written as one text, such as `a ) 38 , b ) 27`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListPattern {
    /// The field with the text. Required.
    pub from: String,
    /// A regular expression (the `regex` crate's syntax) for what stands before each element. What is before its first match, and an
    /// empty rest behind its last one, are no elements; white space around an element is left out. Required.
    #[serde(deserialize_with = "parse_regex")]
    #[schemars(with = "String")]
    pub separator: Regex,
}

fn test_split() -> String {
    "test".to_owned()
}

/// File format of a dataset; `dataset` describes the fields that each one yields.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// One JSON object per line.
    Jsonl,
    /// A JSON array of objects.
    Json,
    /// CSV with a header line, or without one where `columns` is given.
    Csv,
    /// CoNLL columns, one token per line, blank line between sentences.
    Conll,
    /// The TAT-QA release: tables, paragraphs and questions.
    Tatqa,
    /// Apache Parquet, as data sets on the Hugging Face hub are stored.
    Parquet,
    /// By the file's name: .jsonl, .json (lines or an array), .csv with a header, .parquet; behind it may stand .gz or .zst. A name
    /// that tells none is read as `jsonl`.
    #[default]
    Auto,
}

/// How the score over subsets is formed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SubsetMean {
    /// Over all rows: large subsets count more.
    #[default]
    Micro,
    /// Over subsets: each counts the same.
    Macro,
}
