//! Where CUDA libraries lie outside the loader's path. Loaded once by their full names, they are then found by their short
//! ones, as the bindings look for them.

use std::path::{Path, PathBuf};

/// Tries to load libraries by the beginnings of their file names (such as `libnvrtc.so.`), all from the first folder that has
/// the last of them, and returns the folders looked into. The others are those that it opens by itself, by their short names.
/// A library on the loader's own path needs none of this, and nothing is wrong if no folder has it.
pub(crate) fn load_from_usual_places(stems: &[&str]) -> Vec<PathBuf> {
    let folders = usual_places();
    for folder in &folders {
        let mut is_loaded = false;
        for stem in stems {
            is_loaded = files_with_stem(folder, stem).iter().any(|file| load(file));
        }
        if is_loaded {
            break;
        }
    }
    folders
}

fn load(file: &Path) -> bool {
    // SAFETY: runs the initialisers of an NVIDIA library, as any program linked with it does.
    let library = unsafe { libloading::Library::new(file) };
    // it stays, so that the short name finds it
    library.map(std::mem::forget).is_ok()
}

/// `FINDAP_CUDA_LIB` first, then toolkits, then what `pip install nvidia-cuda-nvrtc` leaves in Python's folders.
fn usual_places() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = std::env::var_os("FINDAP_CUDA_LIB").iter().map(PathBuf::from).collect();
    let mut toolkits = children(Path::new("/usr/local"));
    toolkits.retain(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("cuda")));
    folders.extend(toolkits.iter().map(|toolkit| toolkit.join("lib64")));
    for packages in python_packages() {
        for part in ["cu13", "cuda_nvrtc", "cublas"] {
            folders.push(packages.join("nvidia").join(part).join("lib"));
        }
    }
    folders.retain(|folder| folder.is_dir());
    folders.dedup();
    folders
}

fn python_packages() -> Vec<PathBuf> {
    let environments = ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(std::env::var_os).map(PathBuf::from);
    let homes = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local"));
    let roots = environments.chain(homes).chain(["/usr/local".into(), "/usr".into()]);
    let mut found = Vec::new();
    for root in roots {
        for python in children(&root.join("lib")) {
            if python.file_name().is_some_and(|name| name.to_string_lossy().starts_with("python3")) {
                found.extend([python.join("site-packages"), python.join("dist-packages")]);
            }
        }
    }
    found
}

/// Newest version first, which is last by name.
fn files_with_stem(folder: &Path, stem: &str) -> Vec<PathBuf> {
    let mut files = children(folder);
    files.retain(|file| file.file_name().is_some_and(|name| name.to_string_lossy().starts_with(stem)));
    files.reverse();
    files
}

/// What a folder has, by name; nothing if it cannot be read.
fn children(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    paths
}
