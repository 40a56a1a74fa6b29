//! The vector instructions that the fast CPU kernels may use, found once, and the way to compile one body for each.

use std::sync::OnceLock;

/// A set of vector instructions, poorest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// What every processor of the target has.
    Portable,
    /// AVX2 with fused multiply-add (x86-64-v3).
    Avx2,
    /// AVX-512 F, BW, DQ and VL (x86-64-v4).
    Avx512,
}

impl Isa {
    /// The richest set of this machine that `FINDAP_ISA` (`portable`, `avx2` or `avx512`) allows; asked once per process.
    ///
    /// Results may differ in the last bits between sets, so a run that must repeat another machine's bits names the set.
    /// A name that the machine does not have, or that is none of the three, changes nothing.
    pub fn current() -> Isa {
        static CURRENT: OnceLock<Isa> = OnceLock::new();
        *CURRENT.get_or_init(|| {
            let limit = match std::env::var("FINDAP_ISA").as_deref() {
                Ok("portable") => Isa::Portable,
                Ok("avx2") => Isa::Avx2,
                _ => Isa::Avx512,
            };
            Isa::available().filter(|&isa| isa <= limit).last().unwrap_or(Isa::Portable)
        })
    }

    /// The sets of this machine, poorest first.
    pub fn available() -> impl Iterator<Item = Isa> {
        [Isa::Portable, Isa::Avx2, Isa::Avx512].into_iter().filter(|isa| isa.is_available())
    }

    fn is_available(self) -> bool {
        match self {
            Isa::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => {
                Isa::Avx2.is_available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            }
            #[cfg(not(target_arch = "x86_64"))]
            _ => false,
        }
    }
}

/// Runs `body` compiled for the instructions of [`Isa::current`]. `body` and everything it calls must be `#[inline(always)]`: it is
/// compiled again inside each of the wrappers below, where the compiler may use their instructions.
#[inline(always)]
pub(crate) fn vectorised<R>(body: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    match Isa::current() {
        // SAFETY: the current set is available.
        Isa::Avx512 => return unsafe { with_avx512(body) },
        // SAFETY: the current set is available.
        Isa::Avx2 => return unsafe { with_avx2(body) },
        Isa::Portable => {}
    }
    body()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
unsafe fn with_avx512<R>(body: impl FnOnce() -> R) -> R {
    body()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn with_avx2<R>(body: impl FnOnce() -> R) -> R {
    body()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_current_set_is_available() {
        assert!(Isa::available().any(|isa| isa == Isa::current()));
        assert_eq!(Isa::available().next(), Some(Isa::Portable));
    }
}
