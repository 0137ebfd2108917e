//! How cuBLASLt is asked for a product: descriptors and an algorithm, made once for every shape.

use std::ffi::c_int;
use std::mem::size_of_val;

use super::library::{
    ALIGNMENT_OF, Advice, Algorithm, Answer, BF16, CublasLt, F32, Handle, IN_F32, IN_TF32, MOST_WORKSPACE,
    TURN_OF, TURNED,
};
use crate::CudaError;
use crate::view::Number;

/// A matrix as cuBLASLt sees it, column-major: a row-major matrix turned round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Side {
    /// Of the matrix as it lies, row-major.
    pub(super) rows: usize,
    pub(super) cols: usize,
    /// Whether rows and columns change places.
    pub(super) turned: bool,
    /// What its address is a multiple of, 256 at most.
    pub(super) alignment: u32,
}

/// What a plan depends on. Whether a product is added is said with each call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) a: Side,
    pub(super) b: Side,
    pub(super) c: Side,
    /// Whether both factors are in bf16; else in f32.
    pub(super) bf16: bool,
    /// Whether the result is.
    pub(super) into_bf16: bool,
    /// Whether factors in f32 may be rounded to TF32.
    pub(super) tf32: bool,
}

impl Side {
    pub(super) fn new(rows: usize, cols: usize, turned: bool, address: u64) -> Self {
        let alignment = 1_u32 << address.trailing_zeros().min(8);
        Self { rows, cols, turned, alignment }
    }
}

/// The addresses of a product, the result last.
#[derive(Debug, Clone, Copy)]
pub(super) struct Addresses {
    pub(super) a: u64,
    pub(super) b: u64,
    pub(super) c: u64,
}

/// Memory that algorithms may use while they run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Workspace {
    pub(super) address: u64,
    pub(super) bytes: usize,
}

/// Descriptors, and the algorithm that cuBLASLt advises first.
#[derive(Debug)]
pub(super) struct Plan {
    operation: Handle,
    // Of b, a and c: c^T = b^T a^T.
    layouts: [Handle; 3],
    algorithm: Algorithm,
}

impl Plan {
    /// A plan; none where cuBLASLt knows no way.
    ///
    /// # Errors
    /// It fails otherwise.
    pub(super) fn new(
        of: &CublasLt,
        handle: Handle,
        key: Key,
        workspace: Workspace,
    ) -> Result<Option<Self>, CudaError> {
        let mut plan = Self::described(of, key)?;
        match plan.advice(of, handle, key, workspace) {
            Ok(Some(algorithm)) => {
                plan.algorithm = algorithm;
                Ok(Some(plan))
            }
            other => {
                plan.destroy(of);
                other.map(|_| None)
            }
        }
    }

    /// The descriptors, with no algorithm yet.
    ///
    /// # Errors
    /// cuBLASLt does not take them.
    pub(super) fn described(of: &CublasLt, key: Key) -> Result<Self, CudaError> {
        let in_type = if key.tf32 { IN_TF32 } else { IN_F32 };
        // SAFETY: signature of cublasLt.h; the pointer is to a live value.
        let operation =
            of.made("cublasLtMatmulDescCreate", |made| unsafe { (of.create_operation)(made, in_type, F32) })?;
        let layouts = [std::ptr::null_mut(); 3];
        let mut plan = Self { operation, layouts, algorithm: Algorithm::default() };
        match plan.describe(of, key) {
            Ok(()) => Ok(plan),
            Err(error) => {
                plan.destroy(of);
                Err(error)
            }
        }
    }

    fn describe(&mut self, of: &CublasLt, key: Key) -> Result<(), CudaError> {
        for (which, side) in TURN_OF.into_iter().zip([key.b, key.a]) {
            let turned: c_int = if side.turned { TURNED } else { 0 };
            // SAFETY: signature of cublasLt.h; the pointer is to a live value, whose size is told.
            let set = unsafe {
                (of.set_operation)(self.operation, which, (&raw const turned).cast(), size_of_val(&turned))
            };
            of.expect("cublasLtMatmulDescSetAttribute", set)?;
        }
        let sides = [(key.b, key.bf16), (key.a, key.bf16), (key.c, key.into_bf16)];
        for (layout, (side, bf16)) in self.layouts.iter_mut().zip(sides) {
            let (number, rows, cols) = (if bf16 { BF16 } else { F32 }, side.cols as u64, side.rows as u64);
            // SAFETY: as above.
            *layout = of.made("cublasLtMatrixLayoutCreate", |made| unsafe {
                (of.create_layout)(made, number, rows, cols, rows as i64)
            })?;
        }
        Ok(())
    }

    /// The first algorithm that needs no more than the workspace and the key's alignments.
    fn advice(
        &self,
        of: &CublasLt,
        handle: Handle,
        key: Key,
        workspace: Workspace,
    ) -> Result<Option<Algorithm>, CudaError> {
        let preference = Preference::new(of, key, workspace)?;
        let (mut advice, mut found): (Advice, c_int) = (Advice::default(), 0);
        let [b, a, c] = self.layouts;
        // SAFETY: signature of cublasLt.h; one result is asked for, and there is room for it.
        let status = unsafe {
            (of.advise)(
                handle,
                self.operation,
                b,
                a,
                c,
                c,
                preference.handle,
                1,
                &raw mut advice,
                &raw mut found,
            )
        };
        let answer = of.answer("cublasLtMatmulAlgoGetHeuristic", status)?;
        let usable = answer == Answer::Done && found > 0 && advice.state == 0;
        Ok((usable && advice.workspace <= workspace.bytes).then_some(advice.algorithm))
    }

    /// Asks for `c = a b`, or `c += a b` where `add`.
    ///
    /// # Safety
    /// The addresses hold matrices of the plan's key.
    ///
    /// # Errors
    /// cuBLASLt fails.
    pub(super) unsafe fn multiply(
        &self,
        of: &CublasLt,
        handle: Handle,
        addresses: Addresses,
        add: bool,
        workspace: Workspace,
        stream: Handle,
    ) -> Result<Answer, CudaError> {
        let (alpha, beta) = (1.0_f32, if add { 1.0_f32 } else { 0.0 });
        let Addresses { a, b, c } = addresses;
        let [of_b, of_a, of_c] = self.layouts;
        // SAFETY: by the caller; both factors are read before the call returns.
        let status = unsafe {
            (of.multiply)(
                handle,
                self.operation,
                &raw const alpha,
                b,
                of_b,
                a,
                of_a,
                &raw const beta,
                c,
                of_c,
                c,
                of_c,
                &raw const self.algorithm,
                workspace.address,
                workspace.bytes,
                stream,
            )
        };
        of.answer("cublasLtMatmul", status)
    }

    pub(super) fn destroy(self, of: &CublasLt) {
        // SAFETY: made once, destroyed once; work that was asked for does not need them. Failures leave nothing to do.
        unsafe {
            for layout in self.layouts {
                if !layout.is_null() {
                    (of.destroy_layout)(layout);
                }
            }
            (of.destroy_operation)(self.operation);
        }
    }
}

/// What an algorithm may need.
pub(super) struct Preference<'a> {
    of: &'a CublasLt,
    handle: Handle,
}

impl<'a> Preference<'a> {
    /// # Errors
    /// cuBLASLt does not take it.
    pub(super) fn new(of: &'a CublasLt, key: Key, workspace: Workspace) -> Result<Self, CudaError> {
        const SET: &str = "cublasLtMatmulPreferenceSetAttribute";
        // SAFETY: signature of cublasLt.h; here and below pointers are to live values, whose sizes are told.
        let handle =
            of.made("cublasLtMatmulPreferenceCreate", |made| unsafe { (of.create_preference)(made) })?;
        let preference = Self { of, handle };
        let most = workspace.bytes as u64;
        // SAFETY: as above.
        let set = unsafe {
            (of.set_preference)(handle, MOST_WORKSPACE, (&raw const most).cast(), size_of_val(&most))
        };
        of.expect(SET, set)?;
        for (which, side) in ALIGNMENT_OF.into_iter().zip([key.b, key.a, key.c, key.c]) {
            let (alignment, bytes) = (&raw const side.alignment, size_of_val(&side.alignment));
            // SAFETY: as above.
            of.expect(SET, unsafe { (of.set_preference)(handle, which, alignment.cast(), bytes) })?;
        }
        Ok(preference)
    }
}

impl Drop for Preference<'_> {
    fn drop(&mut self) {
        // SAFETY: made by `new`, destroyed once. A failure leaves nothing to do.
        unsafe { (self.of.destroy_preference)(self.handle) };
    }
}

/// Whether numbers are in bf16; `None` for those that no product has.
pub(super) fn is_bf16(number: Number) -> Option<bool> {
    match number {
        Number::F32 => Some(false),
        Number::Bf16 => Some(true),
        _ => None,
    }
}
