//! Rows read and parsed on a thread of their own, a little ahead of whoever looks at them. Order and errors are those of
//! [`super::read_split`].

use super::{Fields, Row, RowIter, read_split};
use crate::error::DataError;
use bso_durable::{Event, Observer, Task};
use serde_json::Value;
use std::path::Path;
use std::sync::mpsc::sync_channel;
use std::time::Instant;

/// Rows, and bytes of text in them, that are handed over at a time. With the batches that wait and the two in hand, some
/// 16 MiB of rows lie in memory, or one row if it is longer.
const BATCH_ROWS: usize = 256;
const BATCH_BYTES: usize = 4 << 20;
const WAITING: usize = 2;

/// Gives every row of a split to `take`, and tells how far it is and what remains: in bytes of the files where their sizes
/// are known, else in rows. `task` is what is being done, in a few words.
///
/// # Errors
/// As [`read_split`], and the first error of `take`.
pub(crate) fn for_each_row(
    path: &Path,
    split: Option<&str>,
    (task, observer): (String, &dyn Observer),
    mut take: impl FnMut(Row) -> Result<(), DataError>,
) -> Result<(), DataError> {
    let mut rows = read_split(path, split)?;
    let (total, position) = (rows.bytes(), rows.position());
    let unit = if total.is_some() { "bytes" } else { "rows" };
    let mut task = Task::start(observer, task, total, unit);
    rows.note().into_iter().for_each(|note| observer.event(Event::Note(note.to_owned())));
    let (started, mut done, mut said) = (Instant::now(), 0_u64, 0);
    let rate = |done: u64| {
        let rate = done as f64 / started.elapsed().as_secs_f64().max(1e-9);
        format!("{done} rows, {rate:.0} rows/s")
    };
    let mut each = |row: Row| {
        done += 1;
        match total {
            None => task.advance(1, String::new),
            Some(_) => {
                let bytes = position.bytes().max(said);
                task.advance(bytes - said, || rate(done));
                said = bytes;
            }
        }
        take(row)
    };
    let Some(total) = total else { return rows.try_for_each(each) };
    std::thread::scope(|scope| {
        let (sender, receiver) = sync_channel::<Vec<Row>>(WAITING);
        scope.spawn(move || {
            while let Some(batch) = next_batch(&mut rows) {
                // Nobody takes rows any more after an error.
                if sender.send(batch).is_err() {
                    return;
                }
            }
        });
        receiver.into_iter().flatten().try_for_each(&mut each)
    })?;
    task.advance(total.saturating_sub(said), String::new);
    task.end(rate(done));
    Ok(())
}

fn next_batch(rows: &mut RowIter) -> Option<Vec<Row>> {
    let (mut batch, mut bytes) = (Vec::new(), 0);
    while batch.len() < BATCH_ROWS && bytes < BATCH_BYTES {
        let Some(row) = rows.next() else { break };
        bytes += row.as_ref().map_or(0, |(_, fields)| size(fields));
        batch.push(row);
    }
    (!batch.is_empty()).then_some(batch)
}

/// Bytes of the text in a row, about.
fn size(fields: &Fields) -> usize {
    fn of(value: &Value) -> usize {
        match value {
            Value::String(text) => text.len(),
            Value::Array(items) => items.iter().map(of).sum(),
            Value::Object(fields) => size(fields),
            Value::Null | Value::Bool(_) | Value::Number(_) => 8,
        }
    }
    fields.iter().map(|(key, value)| key.len() + of(value)).sum()
}
