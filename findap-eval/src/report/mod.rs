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

use findap_data::files::write_whole;

use crate::error::EvalError;

mod chart;
mod folder;
mod html;
mod sections;
#[cfg(test)]
mod tests;

pub use folder::{RunFolder, StageLog};

/// Makes the page of a run folder.
///
/// # Errors
/// [`EvalError::Io`] where the folder cannot be read, [`EvalError::Results`] where a file in it is not what it should be.
pub fn html(run_dir: &Path) -> Result<String, EvalError> {
    Ok(sections::page(&RunFolder::read(run_dir)?))
}

/// Writes the page as `report.html` into the run folder, whole or not at all, and returns its path.
///
/// # Errors
/// As [`html`].
pub fn write(run_dir: &Path) -> Result<PathBuf, EvalError> {
    let path = run_dir.join("report.html");
    write_whole(&path, html(run_dir)?.as_bytes()).map_err(EvalError::io(&path))?;
    Ok(path)
}
