//! The text of kernels. Sources include nothing: what they share is put before them.

/// The kernels of one file.
#[derive(Debug, PartialEq, Eq)]
pub struct Source {
    /// The file below `src`, for messages and for the name of the compiled module.
    pub file: &'static str,
    /// Its text.
    pub text: &'static str,
    /// Which devices run it.
    pub needs: Needs,
}

/// Which devices run a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Compute capability 8.0 and above: bf16 matrix products and asynchronous copies.
    Ampere,
    /// Exactly 9.0: wgmma and tensor copies, which later generations do not have in this form.
    Hopper,
}

const PRELUDE: (&str, &str) = ("cuda/prelude.cuh", include_str!("prelude.cuh"));
const HOPPER: (&str, &str) = ("cuda/hopper.cuh", include_str!("hopper.cuh"));
const COMMON: (&str, &str) = ("cuda/common.cuh", include_str!("common.cuh"));

impl Source {
    /// The whole text for the compiler, with `#line` so that its messages name the files.
    pub fn text(&self) -> String {
        let own = (self.file, self.text);
        let parts = match self.needs {
            Needs::Ampere => vec![PRELUDE, COMMON, own],
            Needs::Hopper => vec![PRELUDE, HOPPER, COMMON, own],
        };
        parts
            .iter()
            .map(|(file, text)| format!("#line 1 \"{file}\"\n{text}\n").replace("#pragma once\n", "\n"))
            .collect()
    }

    /// Whether a device of this compute capability runs it.
    pub fn runs_on(&self, (major, minor): (u32, u32)) -> bool {
        match self.needs {
            Needs::Ampere => major >= 8,
            Needs::Hopper => (major, minor) == (9, 0),
        }
    }
}
