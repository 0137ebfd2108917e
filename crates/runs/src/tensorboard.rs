//! Event files that TensorBoard reads: TFRecord framing (length, masked CRC-32C, payload, masked CRC-32C) around
//! `tensorflow.Event` messages, encoded by hand because three of their fields are all that scalars need.
//! Sources: tensorflow/core/lib/io/record_writer.h, tensorflow/core/util/event.proto, framework/summary.proto.

use crate::{RunsError, StepMetrics, key};
use bso_durable::ensure_dir;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Writes scalars into a folder that `tensorboard --logdir` opens.
pub struct TensorBoard {
    file: File,
    path: PathBuf,
}

impl TensorBoard {
    /// Begins a new event file in `folder`. With `after_step`, readers are told to forget what earlier files say
    /// about later steps (a resumed run).
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn open(folder: &Path, after_step: Option<u64>) -> Result<Self, RunsError> {
        ensure_dir(folder).map_err(RunsError::Write)?;
        let (file, path) = create(folder)?;
        let mut board = Self { file, path };
        let mut version = Event::at(0);
        version.text(3, "brain.Event:2");
        board.write(&version)?;
        if let Some(step) = after_step {
            // SessionLog { status: START } at a step makes readers purge that step and later ones.
            let mut restart = Event::at(step + 1);
            restart.message(7, &[1 << 3, 1]);
            board.write(&restart)?;
        }
        Ok(board)
    }

    /// Adds every finite figure of a row, evaluations under `eval/`, training under `train/`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn append(&mut self, row: &StepMetrics) -> Result<(), RunsError> {
        let mut summary = Vec::new();
        for (name, value) in row.iter().filter(|(name, v)| *name != key::STEP && v.is_finite()) {
            let tag = match name.strip_prefix(key::EVAL_PREFIX) {
                Some(name) => format!("eval/{name}"),
                None => format!("train/{name}"),
            };
            let mut scalar = Vec::new();
            put_bytes(&mut scalar, 1, tag.as_bytes());
            scalar.push(2 << 3 | 5);
            // The format holds 32 bits: metrics.jsonl keeps the rest.
            scalar.extend((value as f32).to_le_bytes());
            put_bytes(&mut summary, 1, &scalar);
        }
        let mut event = Event::at(row.step());
        event.message(5, &summary);
        self.write(&event)
    }

    fn write(&mut self, event: &Event) -> Result<(), RunsError> {
        let length = (event.0.len() as u64).to_le_bytes();
        let mut record = Vec::with_capacity(event.0.len() + 16);
        record.extend(length);
        record.extend(masked_crc(&length).to_le_bytes());
        record.extend(&event.0);
        record.extend(masked_crc(&event.0).to_le_bytes());
        // One write per record: a kill tears at most the last one, which readers skip.
        self.file.write_all(&record).map_err(RunsError::io("append to", &self.path))
    }
}

/// Readers take the files of a folder in the order of their names, which therefore rises from run to run.
fn create(folder: &Path) -> Result<(File, PathBuf), RunsError> {
    let mut second = now() as u64;
    loop {
        let path = folder.join(format!("events.out.tfevents.{second:010}.bso"));
        let newer = path.exists();
        if !newer {
            let open = OpenOptions::new().append(true).create_new(true).open(&path);
            return Ok((open.map_err(RunsError::io("create", &path))?, path));
        }
        second += 1;
    }
}

/// Seconds since 1970; TensorBoard only shows them.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

/// A `tensorflow.Event` under construction.
struct Event(Vec<u8>);

impl Event {
    fn at(step: u64) -> Self {
        let mut bytes = vec![1 << 3 | 1];
        bytes.extend(now().to_le_bytes());
        bytes.push(2 << 3);
        put_varint(&mut bytes, step);
        Self(bytes)
    }

    fn text(&mut self, field: u8, text: &str) {
        put_bytes(&mut self.0, field, text.as_bytes());
    }

    fn message(&mut self, field: u8, bytes: &[u8]) {
        put_bytes(&mut self.0, field, bytes);
    }
}

fn put_bytes(out: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    out.push(field << 3 | 2);
    put_varint(out, bytes.len() as u64);
    out.extend(bytes);
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli), reflected, bit by bit: event files are small.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = !0u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = crc >> 1 ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc32c_of_the_check_string() {
        // The check value of the CRC catalogue, and RFC 3720 B.4's 32 zero bytes.
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
    }

    #[test]
    fn varints() {
        let mut out = Vec::new();
        put_varint(&mut out, 300);
        assert_eq!(out, [0xac, 0x02]);
    }
}
