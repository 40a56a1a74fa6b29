//! The vector instructions that the fast CPU kernels may use, found once, and the way to compile one body for each.

use std::sync::OnceLock;

use crate::error::KernelError;

/// What names the richest set of instructions that the kernels may use.
const SETTING: &str = "FINDAP_ISA";

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
    /// A name that the machine does not have, or that is none of the three (those of [`Bf16Isa`] beyond them too), changes nothing.
    pub fn current() -> Isa {
        static CURRENT: OnceLock<Isa> = OnceLock::new();
        *CURRENT.get_or_init(|| {
            let limit = match std::env::var(SETTING).as_deref() {
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

/// The instructions that products in bf16 may use, poorest first. All but the last two widen the numbers to f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bf16Isa {
    /// What every processor of the target has.
    Portable,
    /// AVX2 with fused multiply-add.
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
    /// AVX-512 BF16: products of pairs in one instruction.
    Avx512Bf16,
    /// AMX: products of tiles.
    Amx,
}

impl Bf16Isa {
    const ALL: [Bf16Isa; 5] = [Bf16Isa::Portable, Bf16Isa::Avx2, Bf16Isa::Avx512, Bf16Isa::Avx512Bf16, Bf16Isa::Amx];

    /// The set that `FINDAP_ISA` (`portable`, `avx2`, `avx512`, `avx512bf16` or `amx`) names, or the richest of this machine where it
    /// names none; asked once per process.
    ///
    /// # Errors
    /// [`KernelError::MissingInstructions`] for a set that this machine does not have.
    pub fn current() -> Result<Bf16Isa, KernelError> {
        static CURRENT: OnceLock<Result<Bf16Isa, KernelError>> = OnceLock::new();
        CURRENT.get_or_init(|| Bf16Isa::chosen(std::env::var(SETTING).ok().as_deref())).clone()
    }

    fn chosen(name: Option<&str>) -> Result<Bf16Isa, KernelError> {
        let best = Bf16Isa::available().last().unwrap_or(Bf16Isa::Portable);
        match Bf16Isa::ALL.into_iter().find(|isa| Some(isa.name()) == name) {
            None => Ok(best),
            Some(isa) if isa.is_available() => Ok(isa),
            Some(isa) => {
                Err(KernelError::MissingInstructions { setting: SETTING, want: isa.name(), best: best.name() })
            }
        }
    }

    /// The sets of this machine, poorest first.
    pub fn available() -> impl Iterator<Item = Bf16Isa> {
        Bf16Isa::ALL.into_iter().filter(|isa| isa.is_available())
    }

    /// As `FINDAP_ISA` has it.
    pub fn name(self) -> &'static str {
        match self {
            Bf16Isa::Portable => "portable",
            Bf16Isa::Avx2 => "avx2",
            Bf16Isa::Avx512 => "avx512",
            Bf16Isa::Avx512Bf16 => "avx512bf16",
            Bf16Isa::Amx => "amx",
        }
    }

    /// Whether the processor multiplies bf16 itself, and so faster than f32.
    pub fn multiplies_bf16(self) -> bool {
        self >= Bf16Isa::Avx512Bf16
    }

    fn is_available(self) -> bool {
        match self {
            Bf16Isa::Portable => true,
            Bf16Isa::Avx2 => Isa::Avx2.is_available(),
            Bf16Isa::Avx512 => Isa::Avx512.is_available(),
            #[cfg(target_arch = "x86_64")]
            Bf16Isa::Avx512Bf16 => Isa::Avx512.is_available() && is_x86_feature_detected!("avx512bf16"),
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Bf16Isa::Amx => Isa::Avx512.is_available() && has_amx(),
            #[allow(unreachable_patterns, reason = "all sets are listed above on x86-64 Linux")]
            _ => false,
        }
    }
}

/// Whether the processor has AMX with bf16 and Linux lets this process use it: it must be asked once, for all threads.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn has_amx() -> bool {
    static HAS: OnceLock<bool> = OnceLock::new();
    *HAS.get_or_init(|| {
        use std::arch::x86_64::{__cpuid, __cpuid_count};
        // Intel SDM, volume 2A, CPUID: leaf 7, EDX bits 22 (AMX-BF16) and 24 (AMX-TILE)
        const AMX: u32 = 1 << 22 | 1 << 24;
        if __cpuid(0).eax < 7 || __cpuid_count(7, 0).edx & AMX != AMX {
            return false;
        }
        // arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA), Documentation/arch/x86/xstate.rst; an older kernel refuses it
        let result: i64;
        // SAFETY: the call reads no memory and changes only what this process may use; the kernel overwrites rcx and r11.
        unsafe {
            std::arch::asm!(
                "syscall",
                inlateout("rax") 158i64 => result,
                in("rdi") 0x1023i64,
                in("rsi") 18i64,
                out("rcx") _,
                out("r11") _,
                options(nostack),
            );
        }
        result == 0
    })
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
pub(crate) unsafe fn with_avx512<R>(body: impl FnOnce() -> R) -> R {
    body()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
pub(crate) unsafe fn with_avx2<R>(body: impl FnOnce() -> R) -> R {
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

    #[test]
    fn a_set_is_taken_by_its_name_and_refused_where_it_is_missing() {
        let best = Bf16Isa::available().last().unwrap();
        assert_eq!((Bf16Isa::chosen(None), Bf16Isa::chosen(Some("other"))), (Ok(best), Ok(best)));
        for isa in Bf16Isa::ALL {
            let chosen = Bf16Isa::chosen(Some(isa.name()));
            if isa.is_available() {
                assert_eq!(chosen, Ok(isa));
            } else {
                let text = chosen.unwrap_err().to_string();
                assert!(text.contains(isa.name()) && text.contains(best.name()) && text.contains(SETTING), "{text}");
            }
        }
    }
}
