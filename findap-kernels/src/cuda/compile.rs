//! Source to machine code for one architecture, by the runtime compiler of CUDA (NVRTC), kept on disk.
//!
//! The result is a CUBIN, never PTX: a driver refuses PTX that is newer than itself, but runs any machine code for its device.

use std::ffi::{CStr, CString, c_char, c_int};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use cudarc::nvrtc::result as nvrtc;
use cudarc::nvrtc::sys;
use sha2::{Digest, Sha256};

use super::error::CudaError;
use super::libraries;
use super::probe::message;
use super::source::{Needs, Source};

/// The runtime compiler of this machine, or the folder that stands for it.
#[derive(Clone, Debug)]
pub struct Compiler {
    /// Its version, or why it cannot be used: no matter as long as `made_before` has what is asked for.
    version: Result<(i32, i32), CudaError>,
    /// Where results are kept; `None` keeps none.
    cache: Option<PathBuf>,
    /// Machine code that was made on another machine, under the names of [`name_made_before`].
    made_before: Option<PathBuf>,
}

/// What [`Compiler::compile`] makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// CUBIN for `sm_*`, PTX text for `compute_*`.
    pub image: Vec<u8>,
    /// What the compiler said; with `-v`, registers and spills of each kernel. Empty where the result was kept.
    pub log: String,
}

/// Options of every compilation. Multiplications and additions fuse, as the error bounds allow for. Not `--restrict`: several
/// kernels work in place.
const OPTIONS: [&str; 2] = ["--std=c++17", "--fmad=true"];

impl Compiler {
    /// Finds the compiler, with the cache in `findap/kernels` below the user's cache folder. Where `FINDAP_CUBIN` names a folder,
    /// the machine code in it goes first, and a machine without a compiler can run what it has.
    ///
    /// # Errors
    /// [`CudaError::NoCompiler`], [`CudaError::BrokenLibrary`], both only without `FINDAP_CUBIN`.
    pub fn find() -> Result<Self, CudaError> {
        let folder = std::env::var_os("XDG_CACHE_HOME").filter(|folder| !folder.is_empty()).map(PathBuf::from);
        let folder = folder.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")));
        let found = Self::find_with_cache(folder.map(|folder| folder.join("findap").join("kernels")));
        match std::env::var_os("FINDAP_CUBIN").filter(|folder| !folder.is_empty()) {
            Some(made_before) => Ok(Self::or_made_before(found, made_before.into())),
            None => found,
        }
    }

    /// The compiler if there is one, behind a folder of machine code.
    pub(super) fn or_made_before(found: Result<Self, CudaError>, made_before: PathBuf) -> Self {
        let found = found.unwrap_or_else(|error| Self { version: Err(error), cache: None, made_before: None });
        Self { made_before: Some(made_before), ..found }
    }

    /// Finds the compiler, with the cache in the given folder, or without.
    ///
    /// # Errors
    /// As [`Compiler::find`].
    pub fn find_with_cache(cache: Option<PathBuf>) -> Result<Self, CudaError> {
        let searched = libraries::load_from_usual_places(&["libnvrtc-builtins.so.", "libnvrtc.so."]);
        // SAFETY: looks for a library by its public name and runs its initialisers, as any program linked with it does.
        if !unsafe { sys::is_culib_present() } {
            return Err(CudaError::NoCompiler { searched });
        }
        let (mut major, mut minor): (c_int, c_int) = (0, 0);
        // SAFETY: writes two numbers to valid places.
        guarded(|| unsafe { sys::nvrtcVersion(&raw mut major, &raw mut minor) }.result())?
            .map_err(|error| CudaError::BrokenLibrary { message: format!("nvrtcVersion: {:?}", error.0) })?;
        Ok(Self { version: Ok((major, minor)), cache, made_before: None })
    }

    /// The version, such as `13.0`; `none` where only a folder stands for the compiler.
    pub fn version(&self) -> String {
        self.version.as_ref().map_or_else(|_| "none".to_owned(), |(major, minor)| format!("{major}.{minor}"))
    }

    /// Machine code for `arch`, such as `sm_90a`: from `FINDAP_CUBIN` or the cache where the same text was compiled before.
    ///
    /// # Errors
    /// [`CudaError::Compile`] with the compiler's own words; [`CudaError::NoCompiler`] and [`CudaError::BrokenLibrary`] where it is
    /// needed after all.
    pub fn cubin(&self, source: &Source, arch: &str) -> Result<Vec<u8>, CudaError> {
        let text = source.text();
        if let Some(image) = self.image_made_before(source, arch) {
            return Ok(image);
        }
        let kept = self.cache.as_deref().map(|folder| folder.join(self.key(&text, arch)));
        if let Some(image) = kept.as_deref().and_then(|file| std::fs::read(file).ok()) {
            return Ok(image);
        }
        let image = self.compile(source, arch, &[])?.image;
        if let Some(file) = kept {
            keep(&file, &image);
        }
        Ok(image)
    }

    /// Compiles, whatever the cache has: to machine code for `sm_*`, to PTX for `compute_*`.
    ///
    /// # Errors
    /// As [`Compiler::cubin`].
    pub fn compile(&self, source: &Source, arch: &str, further_options: &[&str]) -> Result<Module, CudaError> {
        self.version.clone()?;
        let error =
            |log: String| CudaError::Compile { file: source.file, arch: arch.to_owned(), version: self.version(), log };
        let text = CString::new(source.text()).map_err(|_| error("the source has a zero byte".into()))?;
        let name = CString::new(source.file).map_err(|_| error("the name has a zero byte".into()))?;
        let mut options = vec![format!("--gpu-architecture={arch}")];
        options.extend(OPTIONS.iter().chain(further_options).map(|option| (*option).to_owned()));
        guarded(|| compile(&text, &name, &options, arch.starts_with("compute_")))?.map_err(error)
    }

    /// For the architecture, or for the first of its generation, whose machine code later ones run: `sm_80` serves `sm_89`.
    fn image_made_before(&self, source: &Source, arch: &str) -> Option<Vec<u8>> {
        let folder = self.made_before.as_deref()?;
        let generation = arch.strip_suffix(|last: char| last.is_ascii_digit()).map(|begin| format!("{begin}0"));
        let names = [Some(arch.to_owned()), generation].into_iter().flatten();
        names.map(|arch| folder.join(name_made_before(source, &arch))).find_map(|file| std::fs::read(file).ok())
    }

    /// The name of the kept file: everything that the result depends on.
    fn key(&self, text: &str, arch: &str) -> String {
        file_name(&[text, arch, &self.version(), &OPTIONS.join(" ")], arch)
    }
}

/// The name of machine code in a folder that `FINDAP_CUBIN` may name. It depends on the text and the options, so that code of
/// another version of a kernel is not found; not on the compiler, which the machine that runs it may lack.
pub fn name_made_before(source: &Source, arch: &str) -> String {
    file_name(&[&source.text(), arch, &OPTIONS.join(" ")], arch)
}

fn file_name(parts: &[&str], arch: &str) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    let digits: String = hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("{digits}.{arch}.cubin")
}

/// The architecture to compile a source for on a device of this compute capability.
pub fn arch(source: &Source, (major, minor): (u32, u32)) -> String {
    // wgmma exists for exactly one generation, which the suffix says
    let suffix = if source.needs == Needs::Hopper { "a" } else { "" };
    format!("sm_{major}{minor}{suffix}")
}

/// The bindings panic where the library lacks a symbol.
fn guarded<T>(call: impl FnOnce() -> T) -> Result<T, CudaError> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|panic| CudaError::BrokenLibrary { message: message(&*panic) })
}

fn compile(text: &CStr, name: &CStr, options: &[String], to_ptx: bool) -> Result<Module, String> {
    let program = Program(nvrtc::create_program(text, Some(name)).map_err(|error| format!("{:?}", error.0))?);
    // SAFETY: the program exists until it is dropped, here and below.
    let result = unsafe { nvrtc::compile_program(program.0, options) };
    let log = program.log();
    if let Err(error) = result {
        return Err(format!("{:?}\n{log}", error.0));
    }
    let image = if to_ptx { program.ptx() } else { program.cubin() }.map_err(|error| format!("{error:?}\n{log}"))?;
    Ok(Module { image, log })
}

struct Program(sys::nvrtcProgram);

impl Program {
    fn log(&self) -> String {
        // SAFETY: the program exists.
        let log = unsafe { nvrtc::get_program_log(self.0) }.unwrap_or_default();
        text(&log)
    }

    fn ptx(&self) -> Result<Vec<u8>, sys::nvrtcResult> {
        // SAFETY: the program exists.
        let ptx = unsafe { nvrtc::get_ptx(self.0) }.map_err(|error| error.0)?;
        Ok(text(&ptx).into_bytes())
    }

    fn cubin(&self) -> Result<Vec<u8>, sys::nvrtcResult> {
        let mut bytes = 0;
        // SAFETY: the program exists, and the size is written to a valid place.
        unsafe { sys::nvrtcGetCUBINSize(self.0, &raw mut bytes) }.result().map_err(|error| error.0)?;
        let mut image = vec![0u8; bytes];
        // SAFETY: the place has the size that was asked for.
        unsafe { sys::nvrtcGetCUBIN(self.0, image.as_mut_ptr().cast()) }.result().map_err(|error| error.0)?;
        Ok(image)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: made by `create_program` and destroyed once. Nothing can be done about a failure.
        let _ = unsafe { nvrtc::destroy_program(self.0) };
    }
}

/// What stands before the final zero.
fn text(characters: &[c_char]) -> String {
    let bytes: Vec<u8> = characters.iter().map(|&c| c as u8).take_while(|&c| c != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Writes a file that appears whole or not at all. A cache that cannot be written costs time only.
fn keep(file: &Path, image: &[u8]) {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let Some(folder) = file.parent() else { return };
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let unfinished = folder.join(format!("unfinished-{}-{number}", std::process::id()));
    let write = || {
        std::fs::create_dir_all(folder)?;
        std::fs::write(&unfinished, image)?;
        std::fs::rename(&unfinished, file)
    };
    if write().is_err() {
        let _ = std::fs::remove_file(&unfinished);
    }
}
