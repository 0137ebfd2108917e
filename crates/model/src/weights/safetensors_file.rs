//! One safetensors file, read through a memory map and written in one pass. The header is parsed here rather
//! than by a library so that each fault is reported with file, tensor and remedy, and so that every offset is
//! checked before it is used. Format: 8 bytes little-endian header length, JSON header, data without holes.

use crate::error::ModelError;
use bso_engine::DType;
use half::{bf16, f16};
use memmap2::Mmap;
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// The format's own limit on the header, bytes.
const LARGEST_HEADER: usize = 100_000_000;
/// Numbers read between two times that pages are given back: an embedding may be a quarter of a model.
const PIECE: usize = 1 << 21;

/// Where one tensor lies.
#[derive(Clone, Debug)]
pub(crate) struct TensorEntry {
    /// The number type as the file names it; others than f32, bf16 and f16 are refused on reading.
    pub dtype: String,
    pub shape: Vec<usize>,
    bytes: Range<usize>,
}

/// A mapped file whose header has been checked against its size.
#[derive(Debug)]
pub(crate) struct SafetensorsFile {
    path: PathBuf,
    map: Mmap,
    entries: BTreeMap<String, TensorEntry>,
    metadata: BTreeMap<String, String>,
}

impl SafetensorsFile {
    /// Maps the file and checks the header.
    pub(crate) fn open(path: &Path) -> Result<Self, ModelError> {
        let file = File::open(path).map_err(|e| ModelError::reading(path, &e))?;
        // SAFETY: the map is read-only and private to this process. As with every mapped file, another process
        // that truncates it meanwhile ends this one by a signal; weights are written by rename, never in place.
        #[expect(unsafe_code, reason = "mapping a file is unsafe by nature; see above")]
        let map = unsafe { Mmap::map(&file) }.map_err(|e| ModelError::reading(path, &e))?;
        let (entries, metadata) = parse_header(&map).map_err(|problem| ModelError::File {
            file: path.to_owned(),
            problem,
            remedy: "the file is damaged or not safetensors; fetch or save it again".into(),
        })?;
        Ok(Self { path: path.to_owned(), map, entries, metadata })
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    pub(crate) fn entry(&self, name: &str) -> Option<&TensorEntry> {
        self.entries.get(name)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The strings under `__metadata__`.
    pub(crate) fn metadata(&self, key: &str) -> Option<&str> {
        self.metadata.get(key).map(String::as_str)
    }

    /// Checks name, shape and number type without reading the data.
    pub(crate) fn check(&self, name: &str, shape: &[usize]) -> Result<(), ModelError> {
        let wrong = |found: String, remedy: &str| ModelError::Tensor {
            file: self.path.clone(),
            tensor: name.to_owned(),
            expected: format!("f32, bf16 or f16 of shape {shape:?}"),
            found,
            remedy: remedy.to_owned(),
        };
        let Some(entry) = self.entries.get(name) else {
            return Err(wrong("no such tensor".into(), "the file is incomplete; fetch or save it again"));
        };
        if !matches!(entry.dtype.as_str(), "F32" | "BF16" | "F16") {
            return Err(wrong(
                format!("{} of shape {:?}", entry.dtype, entry.shape),
                "save the model in f32, bf16 or f16, not quantised",
            ));
        }
        if entry.shape != shape {
            return Err(wrong(
                format!("{} of shape {:?}", entry.dtype, entry.shape),
                "config.json and the weights belong to different models; fetch both again",
            ));
        }
        Ok(())
    }

    /// As [`SafetensorsFile::check`], and the numbers must be f32: nothing may have been rounded.
    pub(crate) fn check_exact(&self, name: &str, shape: &[usize]) -> Result<(), ModelError> {
        self.check(name, shape)?;
        let dtype = &self.entries[name].dtype;
        if dtype == "F32" {
            return Ok(());
        }
        Err(ModelError::Tensor {
            file: self.path.clone(),
            tensor: name.to_owned(),
            expected: "F32".into(),
            found: dtype.clone(),
            remedy: "use the file as it was written".into(),
        })
    }

    /// Reads a tensor of one number of at least 0, as an i64.
    pub(crate) fn read_count(&self, name: &str) -> Result<u64, ModelError> {
        let entry =
            self.entries.get(name).filter(|e| e.dtype == "I64" && e.shape.iter().product::<usize>() == 1);
        let bytes = entry.and_then(|e| self.map[e.bytes.clone()].first_chunk::<8>());
        let count = bytes.and_then(|b| u64::try_from(i64::from_le_bytes(*b)).ok());
        count.ok_or_else(|| ModelError::Tensor {
            file: self.path.clone(),
            tensor: name.to_owned(),
            expected: "one I64 of at least 0".into(),
            found: entry.map_or_else(|| "another kind".into(), |_| "a negative number".into()),
            remedy: "fetch or save the model again".into(),
        })
    }

    /// Reads a tensor of the given shape as f32 into `out`, whose length must be the shape's product.
    pub(crate) fn read(&self, name: &str, shape: &[usize], out: &mut [f32]) -> Result<(), ModelError> {
        self.check(name, shape)?;
        let entry = &self.entries[name];
        let size = if entry.dtype == "F32" { 4 } else { 2 };
        let places = entry.bytes.clone().step_by(PIECE * size);
        for (out, start) in out.chunks_mut(PIECE).zip(places) {
            let bytes = start..start + out.len() * size;
            let data = &self.map[bytes.clone()];
            match entry.dtype.as_str() {
                "F32" => {
                    for (o, b) in out.iter_mut().zip(data.as_chunks::<4>().0) {
                        *o = f32::from_le_bytes(*b);
                    }
                }
                "BF16" => {
                    for (o, b) in out.iter_mut().zip(data.as_chunks::<2>().0) {
                        *o = bf16::from_le_bytes(*b).to_f32();
                    }
                }
                _ => {
                    for (o, b) in out.iter_mut().zip(data.as_chunks::<2>().0) {
                        *o = f16::from_le_bytes(*b).to_f32();
                    }
                }
            }
            self.forget(bytes);
        }
        Ok(())
    }

    /// Gives back the memory of pages that have been read: each tensor is read once, and the file is as large as the model.
    fn forget(&self, bytes: Range<usize>) {
        #[cfg(unix)]
        {
            use memmap2::UncheckedAdvice::DontNeed;
            // SAFETY: the map is read-only and backed by a file, so that pages that are looked at again come back as they
            // were; nothing borrows from it beyond a call.
            #[expect(unsafe_code, reason = "pages that are given back could have been written; see above")]
            let result = unsafe { self.map.unchecked_advise_range(DontNeed, bytes.start, bytes.len()) };
            // The advice saves memory and changes no number.
            let _ = result;
        }
        #[cfg(not(unix))]
        let _ = bytes;
    }
}

type Header = (BTreeMap<String, TensorEntry>, BTreeMap<String, String>);

fn parse_header(file: &[u8]) -> Result<Header, String> {
    let length = file
        .first_chunk::<8>()
        .map(|b| u64::from_le_bytes(*b))
        .ok_or_else(|| format!("truncated: {} bytes, too short for a safetensors header", file.len()))?;
    let length = usize::try_from(length)
        .ok()
        .filter(|n| *n <= LARGEST_HEADER)
        .ok_or_else(|| format!("the header claims {length} bytes, more than the format allows"))?;
    let header = file[8..].get(..length).ok_or_else(|| {
        format!(
            "truncated: the header claims {length} bytes, the file has {} after its length",
            file.len() - 8
        )
    })?;
    let data_len = file.len() - 8 - length;
    let header: Map<String, Value> =
        serde_json::from_slice(header).map_err(|e| format!("the header is not a JSON object ({e})"))?;
    let (mut entries, mut metadata) = (BTreeMap::new(), BTreeMap::new());
    for (name, value) in header {
        if name == "__metadata__" {
            for (key, value) in value.as_object().into_iter().flatten() {
                metadata.insert(key.clone(), value.as_str().unwrap_or_default().to_owned());
            }
            continue;
        }
        let entry = parse_entry(&value, 8 + length).map_err(|e| format!("tensor {name}: {e}"))?;
        entries.insert(name, entry);
    }
    // In order of their offsets the tensors must cover the data exactly: no holes, no overlaps.
    let mut order: Vec<(&String, &TensorEntry)> = entries.iter().collect();
    order.sort_by_key(|(_, e)| (e.bytes.start, e.bytes.end));
    let mut end = 8 + length;
    for (name, entry) in order {
        if entry.bytes.start != end {
            return Err(format!(
                "tensor {name}: its data starts at byte {}, expected {end} (a hole or an overlap)",
                entry.bytes.start
            ));
        }
        end = entry.bytes.end;
    }
    match end.cmp(&file.len()) {
        std::cmp::Ordering::Equal => Ok((entries, metadata)),
        std::cmp::Ordering::Greater => Err(format!(
            "truncated: the header describes {} bytes of data, the file has {data_len}",
            end - 8 - length
        )),
        std::cmp::Ordering::Less => Err(format!(
            "oversized: the header describes {} bytes of data, the file has {data_len}",
            end - 8 - length
        )),
    }
}

fn parse_entry(value: &Value, data_start: usize) -> Result<TensorEntry, String> {
    let whole = |v: &Value| v.as_u64().and_then(|n| usize::try_from(n).ok());
    let list = |key: &str| -> Result<Vec<usize>, String> {
        let items = value.get(key).and_then(Value::as_array).ok_or_else(|| format!("{key} is not a list"))?;
        items.iter().map(|v| whole(v).ok_or_else(|| format!("{key} holds {v}, not a whole number"))).collect()
    };
    let dtype = value.get("dtype").and_then(Value::as_str).ok_or("dtype is not a string")?;
    let (shape, offsets) = (list("shape")?, list("data_offsets")?);
    let &[begin, end] = offsets.as_slice() else {
        return Err("data_offsets is not a pair".into());
    };
    let at = |offset: usize| {
        offset.checked_add(data_start).ok_or_else(|| format!("data_offsets {offsets:?} overflow"))
    };
    let bytes = at(begin)?..at(end)?;
    let bits: usize = match dtype {
        "F64" | "I64" | "U64" | "C64" => 64,
        "F32" | "I32" | "U32" => 32,
        "F16" | "BF16" | "I16" | "U16" => 16,
        "BOOL" | "I8" | "U8" | "F8_E4M3" | "F8_E5M2" | "F8_E8M0" => 8,
        other => return Err(format!("unknown number type {other:?}")),
    };
    let size = shape.iter().try_fold(bits / 8, |n, d| n.checked_mul(*d));
    if size.is_none() || bytes.end.checked_sub(bytes.start) != size {
        let needed = size.map_or_else(|| "more than can be addressed".to_owned(), |n| format!("{n} bytes"));
        return Err(format!(
            "{dtype} of shape {shape:?} needs {needed}, data_offsets {offsets:?} give another size"
        ));
    }
    Ok(TensorEntry { dtype: dtype.to_owned(), shape, bytes })
}

/// A tensor to be written.
pub(crate) struct TensorToWrite<'a> {
    pub name: String,
    pub shape: Vec<usize>,
    pub data: TensorData<'a>,
}

/// The numbers of a tensor to be written.
pub(crate) enum TensorData<'a> {
    There(&'a [f32]),
    /// Read or put together when their turn comes, so that only one such tensor takes memory at a time.
    Made(Box<dyn Fn() -> io::Result<Cow<'a, [f32]>> + 'a>),
    /// Bytes in a number type of their own.
    Exact(&'static str, Vec<u8>),
}

impl<'a> From<&'a [f32]> for TensorData<'a> {
    fn from(values: &'a [f32]) -> Self {
        Self::There(values)
    }
}

impl TensorToWrite<'_> {
    /// Bytes in a file.
    pub(crate) fn size(&self, dtype: DType) -> usize {
        match &self.data {
            TensorData::Exact(_, bytes) => bytes.len(),
            _ => self.shape.iter().product::<usize>() * dtype.size_in_bytes(),
        }
    }

    /// The number type as the format names it.
    fn dtype_name(&self, dtype: DType) -> &'static str {
        match (&self.data, dtype) {
            (TensorData::Exact(name, _), _) => name,
            (_, DType::F32) => "F32",
            (_, DType::Bf16) => "BF16",
            (_, DType::F16) => "F16",
        }
    }

    fn write(&self, out: &mut dyn Write, dtype: DType) -> io::Result<()> {
        match &self.data {
            TensorData::There(values) => write_numbers(out, values, dtype),
            TensorData::Made(make) => write_numbers(out, &make()?, dtype),
            TensorData::Exact(_, bytes) => out.write_all(bytes),
        }
    }
}

/// Writes one file atomically, rounding to `dtype` (to nearest, ties to even). The tensors' order is kept.
///
/// # Errors
/// The I/O error with the path.
pub(crate) fn write_safetensors(
    path: &Path,
    tensors: &[TensorToWrite<'_>],
    dtype: DType,
    metadata: &[(&str, String)],
) -> io::Result<()> {
    let mut header = Map::new();
    let metadata = metadata.iter().map(|(k, v)| ((*k).to_owned(), Value::from(v.as_str()))).collect();
    header.insert("__metadata__".into(), Value::Object(metadata));
    let mut offset = 0usize;
    for tensor in tensors {
        let end = offset + tensor.size(dtype);
        let name = tensor.dtype_name(dtype);
        let entry = serde_json::json!({"dtype": name, "shape": tensor.shape, "data_offsets": [offset, end]});
        header.insert(tensor.name.clone(), entry);
        offset = end;
    }
    let mut header = serde_json::to_vec(&header)?;
    // Blanks align the data, as the reference implementation does.
    header.resize(header.len().next_multiple_of(8), b' ');
    bso_durable::atomic_write(path, |out| {
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(&header)?;
        tensors.iter().try_for_each(|tensor| tensor.write(out, dtype))
    })
}

fn write_numbers(out: &mut dyn Write, data: &[f32], dtype: DType) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(1 << 16);
    for piece in data.chunks(1 << 14) {
        bytes.clear();
        match dtype {
            DType::F32 => piece.iter().for_each(|x| bytes.extend_from_slice(&x.to_le_bytes())),
            DType::Bf16 => {
                piece.iter().for_each(|x| bytes.extend_from_slice(&bf16::from_f32(*x).to_le_bytes()));
            }
            DType::F16 => {
                piece.iter().for_each(|x| bytes.extend_from_slice(&f16::from_f32(*x).to_le_bytes()))
            }
        }
        out.write_all(&bytes)?;
    }
    Ok(())
}
