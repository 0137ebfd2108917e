//! Keys of what a run does beside training: evaluation, checkpoints, logs, folders.

use super::super::key::{Category::Run, Choice, Key, Kind, Range, choice, later};
use super::{HF, MOST};

const STRATEGIES: &[Choice] = &[choice("no"), choice("steps"), choice("epoch")];
const SAVING: &[Choice] = &[choice("no"), choice("steps"), choice("epoch"), choice("best")];
const WHY_NO_WANDB: &str = "its offline format is its own; write `report_to: tensorboard`, then upload the event files with \
     `wandb sync --sync-tensorboard OUTPUT_DIR/tensorboard`";
const WHY_NO_TRACKER: &str = "metrics.jsonl and report.html in output_dir hold every figure; use `report_to: none`, tensorboard or mlflow";
const TRACKERS: &[Choice] = &[
    choice("none"),
    choice("tensorboard"),
    choice("mlflow"),
    later("wandb", &[], WHY_NO_WANDB),
    later("comet_ml", &["all", "trackio", "swanlab", "clearml", "neptune"], WHY_NO_TRACKER),
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
        .says(HF, "When checkpoints are written (best: whenever an evaluation is the best so far); the final weights always are.")
        .bookkeeping(),
    Key::new("save_steps", Run, COUNT, "500")
        .unit("optimiser steps")
        .says(HF, "Interval of `save_strategy: steps`.")
        .bookkeeping(),
    Key::optional("save_total_limit", Run, COUNT, &["none"], "all are kept")
        .says(HF, "Checkpoints kept; the oldest is removed first, the best one never.")
        .bookkeeping(),
    Key::new("load_best_model_at_end", Run, Kind::Bool, "false")
        .says(HF, "End with the weights of the best evaluation in place of the last step's; each best one is kept as a checkpoint.")
        .bookkeeping(),
    Key::optional("metric_for_best_model", Run, Kind::Text, &["none"], "loss where the best is asked for")
        .example("rewards/accuracies")
        .says(HF, "The figure of an evaluation that tells the best, with or without eval_ before it.")
        .bookkeeping(),
    Key::optional("greater_is_better", Run, Kind::Bool, &["none"], "false for a metric that ends in loss, else true")
        .says(HF, "Whether more of metric_for_best_model is better.")
        .bookkeeping(),
    Key::optional("early_stopping_patience", Run, COUNT, &["none"], "every step is done")
        .unit("evaluations")
        .says(HF, "Stop after so many evaluations without a gain.")
        .aliases(&["early_stopping_steps"])
        .bookkeeping(),
    Key::new("early_stopping_threshold", Run, Kind::Real(Range::NOT_NEGATIVE), "0")
        .unit("of metric_for_best_model")
        .says(HF, "The least gain that counts for early_stopping_patience.")
        .bookkeeping(),
    Key::new("logging_steps", Run, COUNT, "10")
        .unit("optimiser steps")
        .says("TRL", "Interval of the lines in metrics.jsonl.")
        .prominent()
        .bookkeeping(),
    Key::new("report_to", Run, Kind::Choice(TRACKERS), "none")
        .says(HF, "Tracker that receives the metrics besides metrics.jsonl; tensorboard: event files in output_dir/tensorboard; mlflow: its file store in output_dir/mlruns (MLflow from 3.7 on reads it with MLFLOW_ALLOW_FILE_STORE=true, or `mlflow migrate-filestore` moves it into a database).")
        .bookkeeping(),
    Key::optional("ref_cache_dir", Run, Kind::Path, &["none"], "each run keeps its own, in output_dir")
        .says("bso", "Folder where runs with the same reference and the same examples share the reference's log-probs, whatever their seed, split, order and loss.")
        .bookkeeping(),
];
