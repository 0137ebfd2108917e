//! The report: a pure function from [`ReportData`] to one self-contained HTML page. No network, no library, no
//! reading of files except in [`run_report`] and [`salvaged_report`], which gather the data of a single run.

mod curves;
mod data;
mod escape;
mod estimate;
mod evaluations;
mod findings;
mod format;
mod frontier_table;
mod gather;
mod html;
mod plane;
mod samples;
mod scale;
mod settings;
mod style;
mod tables;

pub use data::{
    Axes, Curve, Direction, EvaluationRow, EvaluationTable, KeyFigure, Landmark, LedgerTable, MethodReport,
    Place, ReportData, SamplePrompt, SampleResponse, Scores,
};
pub use estimate::Estimate;
pub use format::number;
pub use gather::{run_report, salvaged_report};
pub use html::{Polling, render_live, render_report};

use crate::RunsError;
use bso_durable::atomic_write;
use std::path::Path;

/// Renders the report and writes it whole.
///
/// # Errors
/// When the file cannot be written.
pub fn write_report(path: &Path, data: &ReportData) -> Result<(), RunsError> {
    let page = render_report(data);
    Ok(atomic_write(path, |out| out.write_all(page.as_bytes()))?)
}
