//! Keys of the data: rows, preference, transform, template, lengths.

use super::super::choices::LossType::{self, *};
use super::super::key::{Category::Data, Choice, Key, Kind, Range, choice, known_as};
use super::{HERE, MOST, TRL};

pub(super) const PAIRED: &[LossType] = &[Bso, Dpo, Cdpo, Ipo, IpoMean, Hinge, SafeDpo, Bfpo, Modpo];
const FROM_PAIRS: &[LossType] =
    &[Nll, Bso, Dpo, Cdpo, Ipo, IpoMean, Hinge, SafeDpo, Bfpo, Modpo, Reward, Cost];

const FORMATS: &[Choice] = &[
    known_as("pku_safe_rlhf", &["pku", "pku_saferlhf", "saferlhf"]),
    choice("flat"),
    choice("conversational"),
    known_as("hh", &["hh_rlhf"]),
    choice("unpaired"),
    choice("sft"),
];
const PREFERENCES: &[Choice] = &[
    known_as("better", &["helpful"]),
    known_as("safer", &["harmless"]),
    known_as("safe_better", &["safe-better"]),
];
const TRANSFORMS: &[Choice] = &[
    choice("none"),
    known_as("swap_drop", &["swap-drop", "swap_and_drop"]),
    known_as("drop", &["drop_only"]),
];
const TRUNCATIONS: &[Choice] = &[choice("keep_start"), choice("keep_end"), choice("drop"), choice("raise")];

pub(super) const KEYS: &[Key] = &[
    Key::required("dataset_name", Data, Kind::Datasets, "data/train.jsonl")
        .says(TRL, "File or folder of rows (JSONL, JSON, CSV, gzip of each; Parquet, Arrow), or a name on the hub. A list is a mixture: all rows of all, or, where an entry has a weight, rows drawn by the seed so that the numbers stand in proportion to the weights (1 where none is given) and no row is used twice.")
        .aliases(&["dataset", "train_file"]),
    Key::optional("dataset_format", Data, Kind::Choice(FORMATS), &["auto"], "told from the first row, and said")
        .says(HERE, "Schema of the rows."),
    Key::optional("columns", Data, Kind::Mapping, &["none"], "the schema's own names")
        .says(HERE, "Names that the fields have in the file, as {prompt: question, chosen: good, rejected: bad}."),
    Key::optional("dataset_train_split", Data, Kind::Text, &["none"], "the whole, or train where there are several")
        .says("TRL (train)", "Split to train on, told by names of files and folders: train-00000-of-00002.parquet, train.jsonl, train/."),
    Key::optional("dataset_test_split", Data, Kind::Text, &["none"], "what eval_split holds out")
        .says("bso (TRL: test)", "Split of dataset_name to evaluate on, in place of eval_split."),
    Key::new("eval_split", Data, Kind::Real(Range::below(0.0, 1.0)), "0.05")
        .unit("share of prompts")
        .says(HERE, "Share of the PROMPTS whose rows are held out for evaluation, so that none leaks; 0 holds out nothing.")
        .prominent(),
    Key::new("preference", Data, Kind::Choice(PREFERENCES), "better")
        .by("stage", &[("cost", "safer")], Some("better"))
        .says("DPO-helpful of SafeDPO's comparison", "Which label orders a pair: the more helpful response, the safer one, or the more helpful one where it is safe.")
        .only(FROM_PAIRS)
        .prominent(),
    Key::new("safety_transform", Data, Kind::Choice(TRANSFORMS), "none")
        .by("loss_type", &[("bso", "swap_drop"), ("safedpo", "swap_drop")], Some("none"))
        .says("SafeDPO, section 4; docs/experiments.md", "What safety labels do to pairs: swap_drop is T(D), swap if only the chosen response is unsafe and drop if both are; drop only drops those.")
        .only(PAIRED)
        .prominent(),
    Key::new("chat_template", Data, Kind::Template, "auto")
        .says(HERE, "How a prompt becomes text: the tokenizer's own chat template (auto), none, a named one, or a .jinja file."),
    Key::optional("max_length", Data, Kind::Integer { min: 2, max: MOST }, &["none"], "no limit")
        .by("stage", &[("reward", "512"), ("cost", "512"), ("ppo_lag", "512")], Some("1024"))
        .unit("tokens")
        .says("TRL; safe-rlhf (reward, cost, ppo_lag)", "Longest prompt plus response.")
        .aliases(&["cutoff_len", "sequence_len", "max_seq_length", "max_seq_len"]),
    Key::new("truncation_mode", Data, Kind::Choice(TRUNCATIONS), "keep_start")
        .says(TRL, "What happens to longer ones: cut the response before its end-of-turn token, cut the start of the prompt, leave the pair out, or stop."),
    Key::new("packing", Data, Kind::Bool, "true")
        .says("bso (TRL: false)", "Sequences lie end to end without padding, and none sees another.")
        .no_effect("batches are always packed without padding; no sequence sees another, so the numbers are the same")
        .bookkeeping(),
    Key::optional("max_prompt_length", Data, Kind::Integer { min: 1, max: MOST }, &["none"], "no limit of its own")
        .says("older TRL", "Prompts have no limit of their own.")
        .no_effect("only max_length limits a sequence, as in TRL today")
        .bookkeeping(),
];
