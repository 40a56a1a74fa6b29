//! With the feature `emulator`: compiles the CUDA kernels and the emulator under them with the C++ compiler of this machine.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    #[cfg(feature = "emulator")]
    emulator::compile();
}

#[cfg(feature = "emulator")]
mod emulator {
    use std::fs;
    use std::path::{Path, PathBuf};

    /// Two libraries: the kernels, in which the compiler calls the emulator before every access to memory, and the emulator
    /// itself, in which it must not.
    pub(crate) fn compile() {
        // Named one by one beside the emulator's own folder: Rust sources of the same folders change nothing here.
        println!("cargo:rerun-if-changed=emulator");
        for header in ["common", "hopper", "prelude"] {
            println!("cargo:rerun-if-changed=src/cuda/{header}.cuh");
        }
        let here = Path::new("emulator");
        let kernels = kernels();
        for kernel in &kernels {
            println!("cargo:rerun-if-changed={}", kernel.display());
        }
        let prelude = fs::canonicalize(here.join("prelude.hpp")).expect("the emulator's prelude");
        let common = fs::canonicalize("src/cuda/common.cuh").expect("the helpers that kernels share");
        let mut build = cpp();
        build.flag("-fsanitize=thread").flag("-fsanitize=alignment,bounds");
        build.flag("-include").flag(&prelude).flag("-include").flag(&common);
        build
            .flag("-Wno-sign-compare")
            .flag("-Wno-unknown-pragmas")
            .flag("-Wno-unused-parameter")
            .flag("-Wno-unused-function");
        build.flag("-xc++"); // .cu is no suffix that the compiler knows
        // The list of kernels is made of constructors that nothing refers to.
        build.link_lib_modifier("+whole-archive");
        build.files(&kernels).compile("findap_emulated_kernels");
        cpp().files(with_suffix(here, "cpp")).compile("findap_emulator");
    }

    fn cpp() -> cc::Build {
        let mut build = cc::Build::new();
        build
            .cpp(true)
            .std("c++17")
            .opt_level(2)
            .debug(false)
            .warnings(true)
            .flag("-fno-strict-aliasing")
            .flag("-Wno-psabi");
        build
    }

    /// `kernel*.cu` of every family, and the kernels with seeded bugs that test the emulator.
    fn kernels() -> Vec<PathBuf> {
        let families = fs::read_dir("src").expect("src").map(|entry| entry.expect("an entry of src").path());
        let mut found: Vec<PathBuf> =
            families.filter(|path| path.is_dir()).flat_map(|path| with_suffix(&path, "cu")).collect();
        found.extend(with_suffix(Path::new("emulator/seeded"), "cu"));
        found.sort();
        found
    }

    fn with_suffix(folder: &Path, suffix: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(folder).expect("a folder of sources").map(|entry| entry.expect("an entry").path());
        let mut found: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|s| s == suffix)).collect();
        found.sort();
        found
    }
}
