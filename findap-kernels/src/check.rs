//! The checks that families share. They run once, before anything is written. A kernel on a device cannot refuse a bad index, so
//! whoever puts indices there calls them first.

use crate::dtype::Dtype;
use crate::error::KernelError;

/// `got` elements where `want` are needed.
///
/// # Errors
/// [`KernelError::ShapeMismatch`].
pub fn length(op: &'static str, arg: &'static str, got: usize, want: usize) -> Result<(), KernelError> {
    if got == want { Ok(()) } else { Err(KernelError::ShapeMismatch { op, arg, want, got }) }
}

/// At least `want` elements.
pub(crate) fn at_least(op: &'static str, arg: &'static str, got: usize, want: usize) -> Result<(), KernelError> {
    if got >= want { Ok(()) } else { Err(KernelError::ShapeMismatch { op, arg, want, got }) }
}

/// Every id below `limit`.
///
/// # Errors
/// [`KernelError::IdOutOfRange`] with the first that is not.
pub fn ids(op: &'static str, arg: &'static str, ids: &[u32], limit: usize) -> Result<(), KernelError> {
    match ids.iter().position(|&id| id as usize >= limit) {
        None => Ok(()),
        Some(index) => Err(KernelError::IdOutOfRange { op, arg, index, id: ids[index], limit }),
    }
}

/// A claim about a number.
pub(crate) fn holds(
    op: &'static str,
    arg: &'static str,
    got: f64,
    claim: bool,
    want: &'static str,
) -> Result<(), KernelError> {
    if claim { Ok(()) } else { Err(KernelError::BadArgument { op, arg, got, want }) }
}

/// Document boundaries `[0, .., n]` that never decrease. Empty documents are allowed.
pub(crate) fn offsets(op: &'static str, arg: &'static str, offsets: &[u32], n: usize) -> Result<(), KernelError> {
    let bad = |index: usize, want: String| {
        let got = offsets.get(index).map_or(0, |&x| x as usize);
        Err(KernelError::BadOffsets { op, arg, index, got, want })
    };
    let Some((&first, &last)) = offsets.first().zip(offsets.last()) else {
        return Err(KernelError::ShapeMismatch { op, arg, want: 1, got: 0 });
    };
    if first != 0 {
        return bad(0, "0".into());
    }
    if let Some(i) = offsets.windows(2).position(|pair| pair[1] < pair[0]) {
        return bad(i + 1, format!("at least {}, the boundary before it", offsets[i]));
    }
    if last as usize != n {
        return bad(offsets.len() - 1, format!("{n}, the number of rows"));
    }
    Ok(())
}

/// The error for a combination of formats that has no version.
pub(crate) fn unsupported<const N: usize>(op: &'static str, dtypes: [(&'static str, Dtype); N]) -> KernelError {
    KernelError::UnsupportedDtype { op, dtypes: dtypes.to_vec() }
}
