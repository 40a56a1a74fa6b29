//! The parameters of kernels, as values.

use std::ffi::c_void;

/// A parameter of a kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arg {
    /// A pointer: an address of the executor that runs the launch, or 0.
    Address(u64),
    /// `u32`.
    U32(u32),
    /// `i32` or `int`.
    I32(i32),
    /// `u64`.
    U64(u64),
    /// `i64`.
    I64(i64),
    /// `float`.
    F32(f32),
    /// `double`.
    F64(f64),
    /// `const __grid_constant__ TensorMap`.
    TensorMap(TensorMap),
}

/// What a tensor copy of Hopper needs to know of a tensor: where it lies and which boxes are copied from it.
///
/// Dimensions go from the innermost outwards. Sizes that the hardware refuses are refused when the launch is run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TensorMap {
    /// The address of the first number; a multiple of 16.
    pub address: u64,
    /// Bytes of a number: 2 for bf16, 4 for f32.
    pub element_bytes: u32,
    /// How many dimensions count, 1 to 5.
    pub rank: u32,
    /// Numbers along each dimension.
    pub dims: [u64; 5],
    /// Bytes from one number to the next along each dimension but the innermost; multiples of 16.
    pub strides: [u64; 4],
    /// Numbers of a box along each dimension, at most 256.
    pub box_dims: [u32; 5],
    /// How the 16-byte chunks of a box are placed in shared memory.
    pub swizzle: Swizzle,
}

/// Which bits of a shared address are exchanged, so that columns of a box fall on different banks. The numbers are those of
/// the descriptors of wgmma.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Swizzle {
    /// None.
    None = 0,
    /// Within 128 bytes.
    Bytes128 = 1,
    /// Within 64 bytes.
    Bytes64 = 2,
    /// Within 32 bytes.
    Bytes32 = 3,
}

/// Pointers to each argument, as `cuLaunchKernel` takes them; tensor maps are those that the executor has `encoded`, in order.
pub(crate) fn pointers<T>(args: &[Arg], encoded: &[T]) -> Vec<*mut c_void> {
    let mut encoded = encoded.iter();
    let pointer = |arg: &Arg| match arg {
        Arg::Address(x) | Arg::U64(x) => std::ptr::from_ref(x).cast(),
        Arg::U32(x) => std::ptr::from_ref(x).cast(),
        Arg::I32(x) => std::ptr::from_ref(x).cast(),
        Arg::I64(x) => std::ptr::from_ref(x).cast(),
        Arg::F32(x) => std::ptr::from_ref(x).cast(),
        Arg::F64(x) => std::ptr::from_ref(x).cast(),
        Arg::TensorMap(_) => std::ptr::from_ref(encoded.next().expect("invariant: every map is encoded")).cast(),
    };
    args.iter().map(pointer).map(|pointer: *const c_void| pointer.cast_mut()).collect()
}

/// The tensor maps among the arguments.
pub(crate) fn tensor_maps(args: &[Arg]) -> impl Iterator<Item = &TensorMap> {
    args.iter().filter_map(|arg| match arg {
        Arg::TensorMap(map) => Some(map),
        _ => None,
    })
}

impl TensorMap {
    /// The rules of `cuTensorMapEncodeTiled`, which says only that some value is invalid.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        let rank = self.rank as usize;
        let span_bytes = match self.swizzle {
            Swizzle::None => u32::MAX,
            Swizzle::Bytes128 => 128,
            Swizzle::Bytes64 => 64,
            Swizzle::Bytes32 => 32,
        };
        let claim = |holds: bool, else_say| if holds { Ok(()) } else { Err(else_say) };
        claim((1..=5).contains(&rank), "the rank is not in 1..=5")?;
        claim(self.address.is_multiple_of(16), "the address is not a multiple of 16")?;
        let strides = self.strides[..rank - 1].iter().all(|s| s.is_multiple_of(16) && *s < 1 << 40);
        claim(strides, "a stride is not a multiple of 16 below 2^40")?;
        claim(self.dims[..rank].iter().all(|d| (1..=1 << 32).contains(d)), "a dimension is not in 1..=2^32")?;
        claim(self.box_dims[..rank].iter().all(|b| (1..=256).contains(b)), "a side of the box is not in 1..=256")?;
        let row_bytes = self.box_dims[0] * self.element_bytes;
        claim(row_bytes.is_multiple_of(16), "the innermost side of the box is not a multiple of 16 bytes")?;
        claim(row_bytes <= span_bytes, "the innermost side of the box is wider than the swizzle")
    }
}
