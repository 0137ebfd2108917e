//! Which vector instructions the kernels use, and how one kernel source becomes one function per path.
//! The only place that asks the processor what it can, and that reads `BSO_CPU`.

use crate::EngineError;

/// A set of instructions. Faster ones give other roundings, so a path is fixed for the life of an [`crate::Engine`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CpuPath {
    /// AVX-512 (f, bw, dq, vl) with fused multiply-add.
    Avx512,
    /// AVX2 with fused multiply-add.
    Avx2,
    /// What every processor of the architecture has.
    Portable,
}

impl CpuPath {
    /// Every path, fastest first.
    pub const EVERY: [Self; 3] = [Self::Avx512, Self::Avx2, Self::Portable];

    /// The name that `BSO_CPU` takes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Avx512 => "avx512",
            Self::Avx2 => "avx2",
            Self::Portable => "portable",
        }
    }

    /// Whether this processor has the instructions.
    pub fn is_available(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return match self {
            Self::Avx512 => {
                is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("fma")
            }
            Self::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            Self::Portable => true,
        };
        #[cfg(not(target_arch = "x86_64"))]
        return self == Self::Portable;
    }

    /// Whether products of bfloat16 have instructions of their own on this path.
    pub fn has_bf16_instructions(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return self == Self::Avx512 && is_x86_feature_detected!("avx512bf16");
        #[cfg(not(target_arch = "x86_64"))]
        return false;
    }

    /// The fastest path of this processor.
    pub fn best() -> Self {
        Self::EVERY.into_iter().find(|path| path.is_available()).unwrap_or(Self::Portable)
    }

    /// [`CpuPath::best`], or the path that the environment variable `BSO_CPU` names.
    ///
    /// # Errors
    /// `BSO_CPU` names an unknown path or one that the processor lacks.
    pub fn detect() -> Result<Self, EngineError> {
        let chosen = match std::env::var("BSO_CPU") {
            Ok(name) => {
                Self::EVERY.into_iter().find(|path| path.name() == name && path.is_available()).ok_or(name)
            }
            Err(_) => Ok(Self::best()),
        };
        chosen.map_err(EngineError::CpuPath)
    }
}

/// Compiles `$body::<FMA>` (an `#[inline(always)]` function) once per [`CpuPath`] and picks one at run time. Generic
/// kernels name their parameters twice: `fn name[E: Element][E](..)`.
macro_rules! vectorised {
    ($(#[$meta:meta])* $vis:vis fn $name:ident $([$($bounds:tt)*][$($names:tt)*])? ($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? = $body:ident) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments, reason = "kernels mirror their operation")]
        $vis fn $name $(<$($bounds)*>)? (path: crate::CpuPath, $($arg: $ty),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
            #[allow(clippy::too_many_arguments, reason = "kernels mirror their operation")]
            fn avx512 $(<$($bounds)*>)? ($($arg: $ty),*) $(-> $ret)? {
                $body::<true $(, $($names)*)?>($($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            #[allow(clippy::too_many_arguments, reason = "kernels mirror their operation")]
            fn avx2 $(<$($bounds)*>)? ($($arg: $ty),*) $(-> $ret)? {
                $body::<true $(, $($names)*)?>($($arg),*)
            }
            match path {
                // SAFETY: an engine holds a path only after `CpuPath::is_available` said yes on this processor.
                #[cfg(target_arch = "x86_64")]
                crate::CpuPath::Avx512 => unsafe { avx512 $(::<$($names)*>)? ($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                crate::CpuPath::Avx2 => unsafe { avx2 $(::<$($names)*>)? ($($arg),*) },
                _ => $body::<false $(, $($names)*)?>($($arg),*),
            }
        }
    };
}
pub(crate) use vectorised;

/// `a * b + c`, fused where the path has the instruction: without it the fused form is a slow library call.
#[inline(always)]
pub(crate) fn mul_add<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}
