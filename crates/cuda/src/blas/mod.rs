//! Products of matrices by cuBLASLt, where it is there. `operation::product` asks it first; what it does not do, and
//! everything where it is missing, is left to the kernels of `product.cu`, which are also what it is compared with.
//!
//! Deterministic: one stream, and the same algorithm each time for the same shapes, types and alignments.

mod library;
mod plan;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};

use self::library::{Answer, CublasLt, Handle};
use self::plan::{Addresses, Key, Plan, Side, Workspace, is_bf16};
use crate::CudaError;
use crate::device::Context;
use crate::driver::Chip;
use crate::memory::Buffer;
use crate::operation::convert;
use crate::view::{Launcher, Number, Product, View};

/// Shapes that are kept: a run whose batches differ in length would otherwise collect them without end.
const MOST_PLANS: usize = 4096;

/// cuBLASLt, with what it needs on a GPU.
#[derive(Debug)]
pub struct Blas {
    library: CublasLt,
    handle: Handle,
    workspace: Buffer,
    state: Mutex<State>,
    context: Arc<Context>,
}

// SAFETY: cuBLASLt's handles may be used from any thread, and its calls here are made under the lock.
unsafe impl Send for Blas {}
// SAFETY: as above.
unsafe impl Sync for Blas {}

#[derive(Debug, Default)]
struct State {
    /// None where cuBLASLt knows no way.
    plans: BTreeMap<Key, Option<Plan>>,
    made: u64,
    tf32: bool,
    /// Room for a factor in f32 rounded to bf16.
    rounded: Option<Buffer>,
}

impl Blas {
    /// Opens it; none, with the reason logged, where it is missing or cannot be used.
    ///
    /// # Errors
    /// There is no memory for its workspace.
    pub(crate) fn open(context: &Arc<Context>, chip: &Chip) -> Result<Option<Self>, CudaError> {
        // Logged once: a program may open several GPUs.
        static SAID: Once = Once::new();
        context.make_current()?;
        let opened = CublasLt::open().and_then(|library| {
            // SAFETY: signature of cublasLt.h; a context is current.
            let handle = library.made("cublasLtCreate", |made| unsafe { (library.create)(made) })?;
            Ok((library, handle))
        });
        let (library, handle) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                let level = match error {
                    CudaError::LibraryMissing { .. } => log::Level::Info,
                    _ => log::Level::Warn,
                };
                SAID.call_once(|| log::log!(level, "products are those of bso's own kernels: {error}"));
                return Ok(None);
            }
        };
        // What NVIDIA recommends: 32 MiB from Hopper on, else 4.
        let workspace = Buffer::new(context, if chip.capability.0 >= 9 { 32 << 20 } else { 4 << 20 });
        if workspace.is_err() {
            // SAFETY: made above, destroyed once.
            unsafe { (library.destroy)(handle) };
        }
        let (workspace, context) = (workspace?, context.clone());
        let blas = Self { library, handle, workspace, state: Mutex::default(), context };
        SAID.call_once(|| log::info!("products by cuBLASLt {} at {}", blas.version(), blas.place()));
        Ok(Some(blas))
    }

    /// As `12.8.4`.
    pub fn version(&self) -> String {
        // SAFETY: signature of cublasLt.h.
        let version = unsafe { (self.library.version)() };
        format!("{}.{}.{}", version / 10_000, version / 100 % 100, version % 100)
    }

    /// The name or path that it was opened by.
    pub fn place(&self) -> &str {
        self.library.place()
    }

    /// How many plans were made so far; products of the same shapes, types and alignments share one.
    pub fn plans(&self) -> u64 {
        self.state().made
    }

    /// Whether factors in f32 may be rounded to TF32 (10 bits of fraction, for tensor cores) from now on. Not at first.
    pub fn set_tf32(&self, tf32: bool) {
        self.state().tf32 = tf32;
    }

    /// Bytes of memory that it holds: its workspace, and room for rounded factors as far as these were needed.
    pub fn bytes(&self) -> [usize; 2] {
        [self.workspace.bytes(), self.state().rounded.as_ref().map_or(0, Buffer::bytes)]
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Whatever stopped another thread left plans whole: they are put in when they are complete.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for a product; false where that is left to the kernels. `on` rounds a factor in f32 beside one in bf16.
    ///
    /// # Safety
    /// The sizes are those that [`Product`] says.
    ///
    /// # Errors
    /// cuBLASLt or the driver fails; there is no memory for the rounded factor.
    pub(crate) unsafe fn multiply(
        &self,
        on: &dyn Launcher,
        product: &Product<'_>,
    ) -> Result<bool, CudaError> {
        let Product { a, a_turned, b, b_turned, c, add } = *product;
        let numbers = [a, b, c].map(|view| is_bf16(view.number()));
        let [Some(a_bf16), Some(bf16), Some(into_bf16)] = numbers else { return Ok(false) };
        if a.is_empty() || b.is_empty() || (a_bf16 && !bf16) {
            return Ok(false);
        }
        // What is rounded lies in memory of its own.
        let a_address = if a_bf16 == bf16 { a.address() } else { 0 };
        let mut state = self.state();
        let key = Key {
            a: Side::new(a.rows(), a.cols(), a_turned, a_address),
            b: Side::new(b.rows(), b.cols(), b_turned, b.address()),
            c: Side::new(c.rows(), c.cols(), false, c.address()),
            bf16,
            into_bf16,
            tf32: state.tf32 && !bf16,
        };
        self.context.make_current()?;
        self.plan(&mut state, key)?;
        if !matches!(state.plans.get(&key), Some(Some(_))) {
            return Ok(false);
        }
        let a = if a_bf16 == bf16 { a.address() } else { self.round(on, &mut state, a)? };
        let Some(Some(plan)) = state.plans.get(&key) else { return Ok(false) };
        let workspace = self.workspace()?;
        let addresses = Addresses { a, b: b.address(), c: c.address() };
        // SAFETY: the key was made of these views, whose sizes fit by the caller; the stream lives as long as the context.
        let answer = unsafe {
            plan.multiply(&self.library, self.handle, addresses, add, workspace, self.context.stream.cast())
        };
        if answer? == Answer::Done {
            return Ok(true);
        }
        // Advised and yet refused: not asked again.
        if let Some(Some(plan)) = state.plans.insert(key, None) {
            plan.destroy(&self.library);
        }
        Ok(false)
    }

    /// Sees to it that there is a plan, or word that there is none.
    fn plan(&self, state: &mut State, key: Key) -> Result<(), CudaError> {
        if state.plans.contains_key(&key) {
            return Ok(());
        }
        if state.plans.len() >= MOST_PLANS {
            self.forget(state);
        }
        let plan = Plan::new(&self.library, self.handle, key, self.workspace()?)?;
        if plan.is_none() {
            log::debug!("cuBLASLt knows no way for {key:?}: the kernels do it");
        }
        state.made += 1;
        state.plans.insert(key, plan);
        Ok(())
    }

    fn forget(&self, state: &mut State) {
        for plan in std::mem::take(&mut state.plans).into_values().flatten() {
            plan.destroy(&self.library);
        }
    }

    fn workspace(&self) -> Result<Workspace, CudaError> {
        let bytes = self.workspace.bytes();
        Ok(Workspace { address: self.workspace.view(Number::F32, 1, 0)?.address(), bytes })
    }

    /// Where `x` is rounded to bf16, until the next factor is: work on one stream is done in order.
    fn round(&self, on: &dyn Launcher, state: &mut State, x: View<'_>) -> Result<u64, CudaError> {
        let bytes = 2 * x.len();
        if state.rounded.as_ref().is_none_or(|buffer| buffer.bytes() < bytes) {
            // The old one goes first, after the work that uses it.
            state.rounded = None;
            state.rounded = Some(Buffer::new(&self.context, bytes)?);
        }
        let Some(buffer) = &state.rounded else {
            return Err(CudaError::shape("product", "no room for the rounded factor"));
        };
        let rounded = buffer.view(Number::Bf16, x.rows(), x.cols())?;
        convert(on, x, rounded)?;
        Ok(rounded.address())
    }
}

impl Drop for Blas {
    fn drop(&mut self) {
        let mut state = std::mem::take(&mut *self.state());
        self.forget(&mut state);
        if self.context.make_current().is_ok() {
            // SAFETY: made by `open`, destroyed once. A failure leaves nothing to do.
            unsafe { (self.library.destroy)(self.handle) };
        }
    }
}
