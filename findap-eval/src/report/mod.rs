//! One HTML file that shows what a run did and what changed, readable offline.
//!
//! Everything comes from the run folder; what is not there is left out of the page. The page loads nothing, runs no
//! script, follows the reader's light or dark setting, and every text from the run is escaped.
//!
//! | module | holds |
//! |---|---|
//! | `folder` | reads a run folder into [`RunFolder`] |
//! | `html` | escaping and tables |
//! | `chart` | line charts as inline SVG |
//! | `sections` | the parts of the page, top to bottom |

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use findap_data::files::write_whole;

use crate::error::EvalError;

mod chart;
mod folder;
mod html;
mod sections;
#[cfg(test)]
mod tests;

pub use folder::{RunFolder, StageLog, StageState};
pub use sections::{LearntAnswer, learnt_answer};

/// Makes the page of a run folder. `is_running` says that a process works on the run now, which the page then tells with the time.
///
/// # Errors
/// [`EvalError::Io`] where the folder cannot be read, [`EvalError::Results`] where it is no run folder or a file in it is not what
/// it should be.
pub fn html(run_dir: &Path, is_running: bool) -> Result<String, EvalError> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
    Ok(sections::page(&RunFolder::read(run_dir)?, is_running.then_some(now)))
}

/// Writes the page as `report.html` into the run folder, whole or not at all, and returns its path.
///
/// # Errors
/// As [`html`].
pub fn write(run_dir: &Path, is_running: bool) -> Result<PathBuf, EvalError> {
    let path = run_dir.join("report.html");
    write_whole(&path, html(run_dir, is_running)?.as_bytes()).map_err(EvalError::io(&path))?;
    Ok(path)
}
