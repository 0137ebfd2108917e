//! The engine: a thread pool, an instruction path and working memory. Operations are methods, in their own files.

use crate::accelerator::{RoomFor, Shared};
use crate::scratch::ScratchPool;
use crate::{Array, CpuPath, DType, Device, EngineError};

/// What every operation runs on. Cheap to share by reference; one per process is the normal case.
#[derive(Debug)]
pub struct Engine {
    pool: rayon::ThreadPool,
    path: CpuPath,
    /// Whether the path has AVX512-BF16.
    pub(crate) bf16_instructions: bool,
    pub(crate) scratch: ScratchPool,
    /// Where arrays are made and what is computed of them, if not on the processor.
    accelerator: Option<Shared>,
}

/// Below this many elementary steps an operation stays on the calling thread: waking others costs more.
const PARALLEL_WORK: usize = 1 << 15;

impl Engine {
    /// An engine on the processor, with its own threads (`None`: one per available core) and the fastest
    /// instructions, or those that `BSO_CPU` names.
    ///
    /// # Errors
    /// Zero threads, threads that cannot be started, or a `BSO_CPU` that this processor cannot follow.
    pub fn cpu(num_threads: Option<usize>) -> Result<Self, EngineError> {
        Self::cpu_with_path(num_threads, CpuPath::detect()?)
    }

    /// As [`Engine::cpu`], with a given instruction path: tests run each.
    ///
    /// # Errors
    /// As [`Engine::cpu`].
    pub fn cpu_with_path(num_threads: Option<usize>, path: CpuPath) -> Result<Self, EngineError> {
        if !path.is_available() {
            return Err(EngineError::CpuPath(path.name().to_owned()));
        }
        let available = std::thread::available_parallelism().map_or(1, |count| count.get());
        let threads = num_threads.unwrap_or(available);
        if threads == 0 {
            return Err(EngineError::Threads { threads, reason: "at least one is needed".to_owned() });
        }
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|index| format!("engine-{index}"))
            .build()
            .map_err(|error| EngineError::Threads { threads, reason: error.to_string() })?;
        let bf16_instructions = path.has_bf16_instructions();
        Ok(Self { pool, path, bf16_instructions, scratch: ScratchPool::default(), accelerator: None })
    }

    /// An engine on `device`; the processor's threads (as [`Engine::cpu`] takes them) prepare what it computes.
    ///
    /// # Errors
    /// As [`Engine::cpu`]; a device that is not there, with what was looked for and where; one that gives other numbers than
    /// the processor.
    pub fn on(device: Device, num_threads: Option<usize>) -> Result<Self, EngineError> {
        let mut engine = Self::cpu(num_threads)?;
        if let Device::Cuda(ordinal) = device {
            engine.accelerator = Some(crate::cuda::open(ordinal)?);
            engine.test_device()?;
        }
        Ok(engine)
    }

    /// The device that arrays are made on.
    pub fn device(&self) -> Device {
        self.accelerator.as_ref().map_or(Device::Cpu, |accelerator| accelerator.device())
    }

    pub(crate) fn accelerator(&self) -> Option<&Shared> {
        self.accelerator.as_ref()
    }

    /// What it computes on, for people: the processor's instructions and threads, or the GPU's name.
    pub fn description(&self) -> String {
        match &self.accelerator {
            Some(accelerator) => accelerator.description(),
            None => format!(
                "instructions {}{}, {} threads",
                self.path.name(),
                if self.bf16_instructions { " with bf16 products" } else { "" },
                self.num_threads()
            ),
        }
    }

    /// Bytes of the device's own memory, free and in all; none where it is the host's.
    ///
    /// # Errors
    /// The device fails.
    pub fn device_memory(&self) -> Result<Option<[usize; 2]>, EngineError> {
        self.accelerator.as_ref().map(|accelerator| accelerator.memory()).transpose()
    }

    /// A matrix of zeros in f32 or bf16 where the engine computes.
    ///
    /// # Errors
    /// f16, which no operation computes in; a device that has not got the memory.
    pub fn zeros(&self, dtype: DType, rows: usize, cols: usize) -> Result<Array, EngineError> {
        match &self.accelerator {
            Some(accelerator) => Array::on_device(accelerator, dtype, (rows, cols)),
            None => Array::zeros_of(dtype, rows, cols),
        }
    }

    /// Moves an array from the host to where the engine computes.
    ///
    /// # Errors
    /// A device that has not got the memory.
    pub fn place(&self, array: Array) -> Result<Array, EngineError> {
        if array.device() == self.device() {
            return Ok(array);
        }
        let mut placed = self.zeros(array.dtype(), array.rows(), array.cols())?;
        placed.set(&array)?;
        Ok(placed)
    }

    /// Number of threads.
    pub fn num_threads(&self) -> usize {
        self.pool.current_num_threads()
    }

    /// The instruction path.
    pub fn path(&self) -> CpuPath {
        self.path
    }

    /// Runs `work` on the engine's threads. Operations called inside start without changing threads, which pays
    /// where many small ones follow each other: put a whole forward or backward pass inside.
    pub fn install<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.pool.install(work)
    }

    /// Bytes of working memory that operations have needed so far, where the engine computes, and share; it never shrinks.
    pub fn scratch_bytes(&self) -> usize {
        self.accelerator.as_ref().map_or_else(|| self.scratch.size_in_bytes(), |on| on.workspace())
    }

    /// Bytes of working memory that a training pass borrows on the engine's device at most; none where that is the host.
    pub fn device_room(&self, pass: &RoomFor) -> Option<usize> {
        self.accelerator.as_ref().map(|on| on.room_for(pass))
    }

    /// Takes at once the working memory of passes up to this one, where it is a device's: none of them runs out of it later.
    ///
    /// # Errors
    /// The device has not got so much.
    pub fn reserve_room(&self, pass: &RoomFor) -> Result<(), EngineError> {
        self.accelerator.as_ref().map_or(Ok(()), |on| on.reserve(pass))
    }

    /// Whether products in f32 may round their factors to TF32 (10 bits of fraction, for tensor cores) from now on, where a
    /// device can. Not at first.
    pub fn allow_tf32(&self, allowed: bool) {
        self.accelerator.iter().for_each(|on| on.allow_tf32(allowed));
    }

    /// Waits until all that was asked for is computed: on a device operations return when they are queued.
    ///
    /// # Errors
    /// Some of it failed.
    pub fn synchronise(&self) -> Result<(), EngineError> {
        self.accelerator.as_ref().map_or(Ok(()), |on| on.synchronise())
    }

    /// Whether `steps` elementary steps are worth more than one thread.
    pub(crate) fn parallel(&self, steps: usize) -> bool {
        self.num_threads() > 1 && steps >= PARALLEL_WORK
    }

    /// Calls `task` once for each of `0..count`; on all threads where `steps` make it worth it. Which thread runs
    /// a task must not show in its result.
    pub(crate) fn for_each(&self, count: usize, steps: usize, task: impl Fn(usize) + Sync + Send) {
        use rayon::prelude::*;
        if count > 1 && self.parallel(steps) {
            self.install(|| (0..count).into_par_iter().with_max_len(1).for_each(task));
        } else {
            (0..count).for_each(task);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{engines, random};
    use crate::{Array, HeadInputs};

    #[test]
    fn no_threads_and_missing_instructions_are_refused() {
        assert!(matches!(Engine::cpu(Some(0)), Err(EngineError::Threads { .. })));
        for path in CpuPath::EVERY {
            assert_eq!(Engine::cpu_with_path(Some(1), path).is_ok(), path.is_available());
        }
    }

    #[test]
    fn operations_run_inside_install_as_outside() {
        for engine in engines() {
            let (x, w) = (random(1, 200, 64), random(2, 48, 64));
            let (mut outside, mut inside) = (Array::zeros(200, 48), Array::zeros(200, 48));
            engine.linear(&x, &w, None, &mut outside).unwrap();
            engine.install(|| engine.linear(&x, &w, None, &mut inside)).unwrap();
            assert_eq!(outside, inside);
        }
    }

    #[test]
    fn working_memory_is_reused_from_the_second_call_on() {
        let engine = Engine::cpu(Some(1)).unwrap();
        let (hidden, head) = (random(1, 30, 8), random(2, 50, 8));
        let inputs =
            HeadInputs { hidden: &hidden, head: (&head).into(), targets: &[7; 30], cap: None, update: None };
        let (mut log_probs, mut lse) = (vec![0.0; 30], Array::zeros(30, 1));
        let mut run = || {
            engine.selected_log_prob(inputs, &mut log_probs, &mut lse).unwrap();
            engine.scratch.take(1).as_ptr()
        };
        assert_eq!(run(), run());
    }
}
