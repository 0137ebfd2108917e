//! Lists of numbers that the host makes and kernels read: token ids, positions, rows, segments. The same few lists serve
//! every layer of a batch, so those of late are kept on the GPU: a list that is there already is found by its content.
//! They go up through pinned memory, and nobody waits for them.

use bso_cuda::operation::{AttentionKernels, AttentionTiles, RowGroups, Segment};
use bso_cuda::{Buffer, CudaError, Gpu, Number, Pinned, View};

/// Most lists that are kept: more than a pass needs.
const KEPT: usize = 32;

/// The lists of late.
#[derive(Debug, Default)]
pub(super) struct Lists {
    kept: Vec<List>,
    groups: Vec<(Vec<u32>, RowGroups)>,
    tiles: Vec<(Vec<Segment>, AttentionTiles)>,
    /// Counts uses.
    clock: u64,
    /// When all copies up to then were known to be done.
    synchronised: u64,
}

#[derive(Debug)]
struct List {
    /// Number of values.
    len: usize,
    host: Pinned,
    gpu: Buffer,
    uploaded: u64,
    used: u64,
}

impl Lists {
    /// All work so far is done: lists may be overwritten. For who has held them since they were waited for.
    pub(super) fn synchronised(&mut self) {
        self.synchronised = self.clock;
    }

    /// Which copies have been asked for: what somebody who then waits without holding the lists may call done.
    pub(super) fn asked(&self) -> u64 {
        self.clock
    }

    /// The copies asked for up to then are done; those that others have asked for since may not be.
    pub(super) fn done(&mut self, asked: u64) {
        self.synchronised = self.synchronised.max(asked);
    }

    /// A list on the GPU. The view is good until [`KEPT`] other lists were asked for.
    pub(super) fn view(&mut self, gpu: &Gpu, values: &[u32]) -> Result<View<'static>, CudaError> {
        self.clock += 1;
        let bytes: &[u8] = bytemuck::cast_slice(values);
        let found = self.kept.iter().position(|list| list.is(values.len(), bytes));
        let index = match found {
            Some(index) => index,
            None => self.upload(gpu, values.len(), bytes)?,
        };
        let list = &mut self.kept[index];
        list.used = self.clock;
        // SAFETY: the buffer is kept until so many other lists were used; every operation holds the lists locked.
        Ok(unsafe { View::at(list.gpu.address(), Number::U32, 1, list.len) })
    }

    /// Numbers in f32, likewise.
    pub(super) fn floats(&mut self, gpu: &Gpu, values: &[f32]) -> Result<View<'static>, CudaError> {
        let bits = self.view(gpu, bytemuck::cast_slice(values))?;
        // SAFETY: the same bytes, of which f32 takes as many.
        Ok(unsafe { View::at(bits.address(), Number::F32, 1, bits.len()) })
    }

    fn upload(&mut self, gpu: &Gpu, len: usize, bytes: &[u8]) -> Result<usize, CudaError> {
        let oldest = (0..self.kept.len()).min_by_key(|&index| self.kept[index].used);
        let index = match oldest {
            Some(index) if self.kept.len() >= KEPT => index,
            _ => {
                self.kept.push(List::new(gpu, bytes.len())?);
                self.kept.len() - 1
            }
        };
        if self.kept[index].uploaded > self.synchronised {
            gpu.synchronise()?;
            self.synchronised = self.clock;
        }
        let list = &mut self.kept[index];
        if list.host.as_slice().len() < bytes.len() {
            *list = List::new(gpu, bytes.len())?;
        }
        // Not to be found if the copy is refused.
        list.uploaded = 0;
        list.host.as_mut_slice()[..bytes.len()].copy_from_slice(bytes);
        gpu.upload_later(&list.host, list.gpu.view(Number::U32, 1, len)?)?;
        (list.len, list.uploaded) = (len, self.clock);
        Ok(index)
    }

    /// Which rows are added into which, on the GPU: `targets, starts, order`.
    pub(super) fn groups(&mut self, gpu: &Gpu, index: &[u32]) -> Result<[View<'static>; 3], CudaError> {
        let groups = match self.groups.iter().position(|(kept, _)| kept == index) {
            Some(place) => self.groups.remove(place),
            None => (index.to_vec(), RowGroups::of(index)),
        };
        let RowGroups { targets, starts, order } = &groups.1;
        let views = [self.view(gpu, targets)?, self.view(gpu, starts)?, self.view(gpu, order)?];
        keep(&mut self.groups, groups);
        Ok(views)
    }

    /// The tiles of a batch's attention, on the GPU.
    pub(super) fn tiles(
        &mut self,
        gpu: &Gpu,
        segments: &[Segment],
        kernels: AttentionKernels,
    ) -> Result<[View<'static>; 4], CudaError> {
        let same =
            |(kept, tiles): &(Vec<Segment>, AttentionTiles)| kept == segments && tiles.kernels == kernels;
        let tiles = match self.tiles.iter().position(same) {
            Some(place) => self.tiles.remove(place),
            None => (segments.to_vec(), AttentionTiles::of(segments, kernels)?),
        };
        let AttentionTiles { segments, queries, keys, visitors, .. } = &tiles.1;
        let views = [
            self.view(gpu, segments)?,
            self.view(gpu, queries)?,
            self.view(gpu, keys)?,
            self.view(gpu, visitors)?,
        ];
        keep(&mut self.tiles, tiles);
        Ok(views)
    }
}

/// Puts the latest one last, and lets the oldest go where there are too many.
fn keep<T>(kept: &mut Vec<T>, latest: T) {
    if kept.len() >= 4 {
        kept.remove(0);
    }
    kept.push(latest);
}

impl List {
    /// Room for at least so many bytes.
    fn new(gpu: &Gpu, bytes: usize) -> Result<Self, CudaError> {
        // Batches differ in length: a list that is a little longer finds room.
        let bytes = bytes.next_power_of_two().max(1 << 12);
        Ok(Self { len: 0, host: gpu.pinned(bytes)?, gpu: gpu.buffer(bytes)?, uploaded: 0, used: 0 })
    }

    fn is(&self, len: usize, bytes: &[u8]) -> bool {
        self.uploaded > 0 && self.len == len && self.host.as_slice().get(..bytes.len()) == Some(bytes)
    }
}
