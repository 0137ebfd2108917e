//! Keys of what a run does beside training: evaluation, checkpoints, logs, folders.

use super::super::key::{Category::Run, Choice, Key, Kind, choice, later};
use super::{HF, MOST};

const STRATEGIES: &[Choice] = &[choice("no"), choice("steps"), choice("epoch")];
const SAVING: &[Choice] = &[
    choice("no"),
    choice("steps"),
    choice("epoch"),
    later("best", &[], "keep all checkpoints (`save_strategy: epoch`) and choose by metrics.jsonl"),
];
const WHY_NO_TRACKER: &str =
    "metrics.jsonl and report.html in output_dir hold every figure; use `report_to: none` or tensorboard";
const TRACKERS: &[Choice] = &[
    choice("none"),
    choice("tensorboard"),
    later("wandb", &["all", "mlflow", "comet_ml", "trackio", "swanlab"], WHY_NO_TRACKER),
];
const COUNT: Kind = Kind::Integer { min: 1, max: MOST };

pub(super) const KEYS: &[Key] = &[
    Key::new("output_dir", Run, Kind::Path, "trainer_output")
        .says("TRL", "Folder that receives weights, metrics, checkpoints and the report.")
        .prominent()
        .bookkeeping(),
    Key::new("overwrite_output_dir", Run, Kind::Bool, "false")
        .says(HF, "Replace what a finished run left in output_dir; otherwise a folder in use is refused.")
        .bookkeeping(),
    Key::new("resume_from_checkpoint", Run, Kind::FlagOrPath, "false")
        .says(HF, "Go on from the last checkpoint in output_dir (true or auto; anew where there is none) or from a named one.")
        .bookkeeping(),
    Key::new("eval_strategy", Run, Kind::Choice(STRATEGIES), "no")
        .says(HF, "When the held-out rows are evaluated during training.")
        .aliases(&["evaluation_strategy"])
        .prominent()
        .bookkeeping(),
    Key::optional("eval_steps", Run, COUNT, &["none"], "as logging_steps")
        .unit("optimiser steps")
        .says(HF, "Interval of `eval_strategy: steps`.")
        .bookkeeping(),
    Key::new("save_strategy", Run, Kind::Choice(SAVING), "steps")
        .says(HF, "When checkpoints are written; the final weights always are.")
        .bookkeeping(),
    Key::new("save_steps", Run, COUNT, "500")
        .unit("optimiser steps")
        .says(HF, "Interval of `save_strategy: steps`.")
        .bookkeeping(),
    Key::optional("save_total_limit", Run, COUNT, &["none"], "all are kept")
        .says(HF, "Checkpoints kept; the oldest is removed first.")
        .bookkeeping(),
    Key::new("logging_steps", Run, COUNT, "10")
        .unit("optimiser steps")
        .says("TRL", "Interval of the lines in metrics.jsonl.")
        .prominent()
        .bookkeeping(),
    Key::new("report_to", Run, Kind::Choice(TRACKERS), "none")
        .says(HF, "Tracker that receives the metrics besides metrics.jsonl; tensorboard: event files in output_dir/tensorboard.")
        .bookkeeping(),
];
