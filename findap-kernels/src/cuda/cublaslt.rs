//! Matrix products by cuBLASLt: found at run time, one algorithm chosen for each shape.

use std::collections::HashMap;
use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

use cudarc::cublaslt::result as lt;
use cudarc::cublaslt::sys;

use super::error::CudaError;
use super::libraries;
use crate::cuda::{Matrix, Product};
use crate::dtype::Dtype;
use crate::slice::Write;

/// Bytes that algorithms may use on the device: what NVIDIA recommends for Hopper.
pub(super) const WORKSPACE_BYTES: usize = 32 << 20;

/// The library, in use on one device.
pub(super) struct CublasLt {
    handle: sys::cublasLtHandle_t,
    /// Address of [`WORKSPACE_BYTES`] on the device. Products are queued on one stream, so they share it.
    workspace: u64,
    plans: Mutex<HashMap<Key, Option<Plan>>>,
}

/// What an algorithm is chosen by.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    sizes: [usize; 3],
    transposes: [bool; 2],
    pitches: [usize; 3],
    dtypes: [Dtype; 3],
}

/// Descriptions that stay for the life of the library, and the algorithm.
#[derive(Clone, Copy)]
struct Plan {
    operation: sys::cublasLtMatmulDesc_t,
    /// The formats of a, b and c.
    layouts: [sys::cublasLtMatrixLayout_t; 3],
    algorithm: sys::cublasLtMatmulAlgo_t,
}

// SAFETY: handles and descriptions may be used from any thread; the descriptions are not changed once made.
unsafe impl Send for CublasLt {}
// SAFETY: as above; the map is behind a lock.
unsafe impl Sync for CublasLt {}

impl CublasLt {
    /// `None` where the library is not installed or does not start. The device's context is current in this thread.
    pub(super) fn find(workspace: u64) -> Option<CublasLt> {
        // SAFETY: looks for a library by its public name and runs its initialisers, as any program linked with it does.
        let is_present = || unsafe { sys::is_culib_present() };
        if !is_present() {
            libraries::load_from_usual_places(&["libcublasLt.so."]);
            if !is_present() {
                return None;
            }
        }
        // the bindings panic where the library lacks a symbol
        let handle = catch_unwind(AssertUnwindSafe(|| lt::create_handle().ok())).ok().flatten()?;
        Some(CublasLt { handle, workspace, plans: Mutex::default() })
    }

    /// Address of the workspace, to be released.
    pub(super) fn workspace(&self) -> u64 {
        self.workspace
    }

    /// Queues the product; `None` where the library has no algorithm for it.
    ///
    /// # Safety
    /// The operands belong to the device and have the numbers of the product; its context is current and `stream` is its.
    pub(super) unsafe fn multiply(&self, product: &Product, stream: *mut c_void) -> Option<Result<(), CudaError>> {
        let Product { m, n, k, a, transpose_a, b, transpose_b, c, write } = *product;
        let key = Key {
            sizes: [m, n, k],
            transposes: [transpose_a, transpose_b],
            pitches: [a.pitch, b.pitch, c.pitch],
            dtypes: [a.elements.dtype, b.elements.dtype, c.elements.dtype],
        };
        let mut plans = self.plans.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let plan = (*plans.entry(key).or_insert_with(|| self.plan(product).ok()))?;
        drop(plans);
        let (one, beta) = (1.0f32, if write == Write::Accumulate { 1.0f32 } else { 0.0 });
        let pointer = |matrix: Matrix| matrix.elements.address as *mut c_void;
        let [of_a, of_b, of_c] = plan.layouts;
        // SAFETY: everything lives for the call, and the operands until the stream has done it by the contract of this function.
        // The library's matrices are column-major: ours transposed, so the factors change places.
        let result = unsafe {
            lt::matmul(
                self.handle,
                plan.operation,
                (&raw const one).cast(),
                (&raw const beta).cast(),
                pointer(b),
                of_b,
                pointer(a),
                of_a,
                pointer(c),
                of_c,
                pointer(c),
                of_c,
                &raw const plan.algorithm,
                self.workspace as *mut c_void,
                WORKSPACE_BYTES,
                stream.cast(),
            )
        };
        let failed = |error: lt::CublasError| CudaError::Driver {
            call: "cublasLtMatmul",
            kernel: None,
            message: format!("{:?}", error.0),
        };
        Some(result.map_err(failed))
    }

    fn plan(&self, product: &Product) -> Result<Plan, lt::CublasError> {
        use sys::cublasLtMatmulDescAttributes_t as Operation;
        use sys::cublasLtMatmulPreferenceAttributes_t as Preference;
        let Product { m, n, k, a, transpose_a, b, transpose_b, c, .. } = *product;
        // f32 stays f32: the formats that round it to 19 bits have names of their own
        let operation =
            lt::create_matmul_desc(sys::cublasComputeType_t::CUBLAS_COMPUTE_32F, sys::cudaDataType::CUDA_R_32F)?;
        let transposes = [
            (Operation::CUBLASLT_MATMUL_DESC_TRANSA, transpose_b),
            (Operation::CUBLASLT_MATMUL_DESC_TRANSB, transpose_a),
        ];
        for (attribute, is_transposed) in transposes {
            let value: i32 = is_transposed.into(); // CUBLAS_OP_N and CUBLAS_OP_T
            // SAFETY: the attribute is an enumeration of 32 bits, which is copied.
            unsafe { lt::set_matmul_desc_attribute(operation, attribute, (&raw const value).cast(), 4)? };
        }
        let layout = |matrix: Matrix, rows: usize, columns: usize| {
            let dtype = match matrix.elements.dtype {
                Dtype::Bf16 => sys::cudaDataType::CUDA_R_16BF,
                _ => sys::cudaDataType::CUDA_R_32F,
            };
            // rows of ours are columns of theirs
            lt::create_matrix_layout(dtype, columns as u64, rows as u64, matrix.pitch as i64)
        };
        let layouts = [
            if transpose_a { layout(a, k, m)? } else { layout(a, m, k)? },
            if transpose_b { layout(b, n, k)? } else { layout(b, k, n)? },
            layout(c, m, n)?,
        ];
        let preference = lt::create_matmul_pref()?;
        let workspace = WORKSPACE_BYTES;
        // SAFETY: the attribute is a number of 64 bits, which is copied.
        unsafe {
            let attribute = Preference::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
            lt::set_matmul_pref_attribute(preference, attribute, (&raw const workspace).cast(), 8)?;
        }
        for attribute in [
            Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
            Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
            Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
            Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
        ] {
            let aligned = 16u32;
            // SAFETY: the attribute is a number of 32 bits, which is copied.
            unsafe { lt::set_matmul_pref_attribute(preference, attribute, (&raw const aligned).cast(), 4)? };
        }
        let [of_a, of_b, of_c] = layouts;
        // SAFETY: all descriptions were just made.
        let found =
            unsafe { lt::get_matmul_algo_heuristic(self.handle, operation, of_b, of_a, of_c, of_c, preference) };
        // SAFETY: made here and used no more.
        unsafe { lt::destroy_matmul_pref(preference)? };
        Ok(Plan { operation, layouts, algorithm: found?.algo })
    }
}

impl Drop for CublasLt {
    fn drop(&mut self) {
        let plans = self.plans.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        // SAFETY: made by this value and used no more. Failures here are those of earlier products.
        unsafe {
            for plan in plans.values().flatten() {
                let _ = lt::destroy_matmul_desc(plan.operation);
                for layout in plan.layouts {
                    let _ = lt::destroy_matrix_layout(layout);
                }
            }
            let _ = lt::destroy_handle(self.handle);
        }
    }
}
