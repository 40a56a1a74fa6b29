//! `cargo xtask bundle`: a folder that tests and measures a GPU machine on which nothing is installed but the driver.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::{build, built, cargo, kernels, workspace_root};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The folder that is made; one of an earlier bundle is replaced
    #[arg(long, value_name = "FOLDER", default_value = "target/bundle")]
    output: PathBuf,
}

/// Largest size of a bundle, so that it can be copied anywhere quickly.
const MOST_BYTES: u64 = 64 << 20;

/// Files that are copied unchanged: path in the workspace, path in the bundle.
const FILES: [(&str, &str); 5] = [
    ("bench/bundle/run.sh", "run.sh"),
    ("recipes/demo.toml", "recipes/demo.toml"),
    ("assets", "assets"),
    ("findap-model/testdata/golden", "golden"),
    ("bench/peers", "peers"),
];

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let output = workspace_root().join(&arguments.output);
    let Some(compiler) = kernels::compiler_folder()? else {
        bail!("the machine code of the kernels cannot be made: {} could not be fetched", kernels::COMPILER);
    };
    if output.exists() {
        // replaces only a folder that an earlier bundle made
        ensure!(output.join("run.sh").exists(), "{} exists and is no bundle", output.display());
        fs::remove_dir_all(&output).with_context(|| format!("cannot remove {}", output.display()))?;
    }
    fs::create_dir_all(&output).with_context(|| format!("cannot make {}", output.display()))?;
    // run.sh first: a bundle is recognised by it, also one that was not finished
    for (from, to) in FILES {
        copy(&workspace_root().join(from), &output.join(to))?;
    }

    build(&["--bin", "findap", "--example", "bench_cuda", "--example", "step", "--example", "compile_kernels"])?;
    strip(&program("findap"), &output.join("findap"))?;
    strip(&program("examples/bench_cuda"), &output.join("bench_cuda"))?;
    strip(&program("examples/step"), &output.join("bench_step"))?;
    let tests = unit_tests()?;
    for (package, name) in [("findap_kernels", "kernel_tests"), ("findap_model", "model_tests")] {
        let program =
            tests.get(package).with_context(|| format!("cargo did not name the test program of {package}"))?;
        strip(program, &output.join(name))?;
    }
    let status = built("examples/compile_kernels")
        .arg("--output")
        .arg(output.join("cubin"))
        .env("FINDAP_CUDA_LIB", compiler)
        .status()
        .context("cannot start the example compile_kernels")?;
    ensure!(status.success(), "the kernels do not compile");
    let (rows, logprobs) = parity(&workspace_root().join("findap-model/testdata/golden"))?;
    fs::create_dir_all(output.join("parity")).context("cannot make the folder parity")?;
    for (name, text) in [("rows.jsonl", rows), ("logprobs.txt", logprobs)] {
        fs::write(output.join("parity").join(name), text).with_context(|| format!("cannot write {name}"))?;
    }
    fs::write(output.join("commit"), commit()).context("cannot write the commit")?;

    let mut total = 0;
    for entry in sorted_entries(&output)? {
        let bytes = size(&entry)?;
        total += bytes;
        println!("{:>10.2} MiB  {}", mebibytes(bytes), entry.strip_prefix(&output).unwrap_or(&entry).display());
    }
    println!("{:>10.2} MiB  {}", mebibytes(total), output.display());
    ensure!(total < MOST_BYTES, "a bundle has to stay below {} MiB", MOST_BYTES >> 20);
    Ok(ExitCode::SUCCESS)
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn program(name: &str) -> PathBuf {
    PathBuf::from(built(name).get_program())
}

/// The test programs of all libraries, without the emulator, so that their cases run on the GPU alone. The whole workspace is named so that
/// features are unified as in [`build`] and no dependency is built again.
fn unit_tests() -> Result<BTreeMap<String, PathBuf>> {
    let output = cargo()
        .args(["test", "--release", "--workspace", "--lib", "--no-run", "--message-format=json-render-diagnostics"])
        .stderr(std::process::Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    ensure!(output.status.success(), "the unit tests do not build");
    let messages = String::from_utf8_lossy(&output.stdout);
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    Ok(messages
        .filter_map(|message| {
            Some((message["target"]["name"].as_str()?.to_owned(), PathBuf::from(message["executable"].as_str()?)))
        })
        .collect())
}

/// Input and expected output of the bundle's check of `findap score`. The input is packed rows as it reads them; the output has a line
/// per row with the log-probability that transformers gives each token, `null` for the first token of a document.
fn parity(golden: &Path) -> Result<(String, String)> {
    let read = |path: &str| fs::read(golden.join(path)).with_context(|| format!("cannot read golden/{path}"));
    let tokens: Value = serde_json::from_slice(&read("data/tokens.json")?)?;
    let bytes = read("out/logits_tiny.safetensors")?;
    let (mut rows, mut logprobs) = (String::new(), String::new());
    for (index, row) in tokens["packed"].as_array().context("no packed rows")?.iter().enumerate() {
        rows += &format!("{}\n", serde_json::json!({ "docs": row["docs"] }));
        let mut losses = tensor_f32(&bytes, &format!("packed{index}.loss.f32"))?.into_iter();
        for document in row["docs"].as_array().context("a row without documents")? {
            for token in 0..document.as_array().map_or(0, Vec::len) {
                let loss = losses.next().context("fewer losses than tokens")?;
                logprobs += &if token == 0 { "null\n".to_owned() } else { format!("{:?}\n", -loss) };
            }
        }
    }
    Ok((rows, logprobs))
}

/// Reads a tensor of a safetensors file, which has a length of 8 bytes, a JSON header of that length, and the numbers.
fn tensor_f32(bytes: &[u8], name: &str) -> Result<Vec<f32>> {
    let (length, rest) = bytes.split_first_chunk::<8>().context("a file of less than 8 bytes")?;
    let (header, data) = rest.split_at_checked(u64::from_le_bytes(*length) as usize).context("a header cut short")?;
    let header: Value = serde_json::from_slice(header)?;
    let offset = |at: usize| header[name]["data_offsets"][at].as_u64().with_context(|| format!("no tensor {name}"));
    let numbers = data.get(offset(0)? as usize..offset(1)? as usize).context("a tensor past the end of its file")?;
    ensure!(header[name]["dtype"] == "F32", "{name} is not f32");
    Ok(numbers.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
}

/// Copies a program without its debug information, nine tenths of its size.
fn strip(from: &Path, to: &Path) -> Result<()> {
    let status = Command::new("strip").arg("--strip-all").arg("-o").arg(to).arg(from).status();
    ensure!(status.context("cannot start strip (binutils)")?.success(), "cannot strip {}", from.display());
    Ok(())
}

/// Copies a file, or a folder with everything in it.
fn copy(from: &Path, to: &Path) -> Result<()> {
    if from.is_dir() {
        for entry in sorted_entries(from)? {
            copy(&entry, &to.join(entry.file_name().unwrap_or_default()))?;
        }
        return Ok(());
    }
    let folder = to.parent().unwrap_or(to);
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    fs::copy(from, to).map(drop).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))
}

fn sorted_entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut entries = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<PathBuf>>>()?;
    entries.sort();
    Ok(entries)
}

fn size(path: &Path) -> Result<u64> {
    if path.is_dir() {
        return sorted_entries(path)?.iter().map(|entry| size(entry)).sum();
    }
    Ok(path.metadata().with_context(|| format!("cannot read {}", path.display()))?.len())
}

/// The commit that everything was made from, with a mark where the files differ from it.
fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").current_dir(workspace_root()).args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "HEAD"]) else { return "unknown\n".to_owned() };
    let is_changed = git(&["status", "--porcelain", "--untracked-files=no"]).is_none_or(|changes| !changes.is_empty());
    format!("{commit}{}\n", if is_changed { " with changes" } else { "" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_copied_is_there() {
        for (from, _) in FILES {
            assert!(workspace_root().join(from).exists(), "{from}");
        }
    }

    #[test]
    fn every_token_of_the_packed_rows_has_its_golden_number() {
        let (rows, logprobs) = parity(&workspace_root().join("findap-model/testdata/golden")).unwrap();
        let tokens: usize = rows.lines().map(|row| row.matches(',').count() + 1).sum();
        assert_eq!(logprobs.lines().count(), tokens);
        let numbers: Vec<f64> = logprobs.lines().filter_map(|line| line.parse().ok()).collect();
        assert!(numbers.iter().all(|logp| (-20.0..0.0).contains(logp)) && numbers.len() > 300, "{}", numbers.len());
    }
}
