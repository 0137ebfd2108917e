//! Keys of the loss.

use super::super::choices::LossType::*;
use super::super::key::{Category::Objective, Choice, Key, Kind, Range, choice, known_as, later};
use super::TRL;
use super::model::WITH_REFERENCE;

const LOSSES: &[Choice] = &[
    choice("nll"),
    choice("bso"),
    known_as("dpo", &["sigmoid"]),
    choice("cdpo"),
    choice("ipo"),
    known_as("ipo_mean", &["ipo-mean"]),
    choice("hinge"),
    choice("safedpo"),
    choice("bfpo"),
    choice("modpo"),
    choice("kto"),
    choice("reward"),
    choice("cost"),
    choice("ppo_lag"),
    later(
        "sacpo",
        &[],
        "it is a method of several stages; write `preset: sacpo` or `recipe: sacpo` with `loss_type: dpo`",
    ),
    later(
        "orpo",
        &[
            "simpo",
            "robust",
            "exo_pair",
            "nca_pair",
            "bco_pair",
            "sppo_hard",
            "aot",
            "discopop",
            "apo_zero",
            "apo_down",
        ],
        "TRL's loss of this name is not implemented",
    ),
];
const GENERATORS: &[Choice] = &[
    choice("logistic"),
    choice("kliep"),
    choice("lsif"),
    choice("ba"),
    choice("sba"),
    known_as("phi_mu", &["phi", "phi-mu"]),
    choice("kernel"),
];
const LAYOUTS: &[Choice] =
    &[known_as("transformers", &["sequence_classification"]), known_as("safe_rlhf", &["safe-rlhf"])];
const TAILS: &[Choice] = &[choice("clamp"), choice("linear")];
const METHOD: &str = "BSO";

pub(super) const KEYS: &[Key] = &[
    Key::new("loss_type", Objective, Kind::Choice(LOSSES), "")
        .by("stage", &[("sft", "nll"), ("reward", "reward"), ("cost", "cost"), ("ppo_lag", "ppo_lag")], None)
        .example("bso")
        .says("-", "The loss: nll for stage sft, reward, cost and ppo_lag for the stages of these names, else one of the others.")
        .prominent(),
    Key::new("beta", Objective, Kind::Real(Range::POSITIVE), "0.1")
        .unit("reward units per nat")
        .says(TRL, "Strength of the pull to the reference.")
        .only(WITH_REFERENCE)
        .aliases(&["pref_beta", "rl_beta", "scale_coeff"])
        .prominent(),
    Key::new("safety_penalty", Objective, Kind::Real(Range::NOT_NEGATIVE), "")
        .by("loss_type", &[("bso", "2")], Some("10"))
        .unit("reward units")
        .says("docs/experiments.md (bso loss: 10)", "C, what an unsafe response costs. 0 leaves a preference loss without safety.")
        .only(&[Bso, SafeDpo])
        .prominent(),
    Key::new("generator", Objective, Kind::Choice(GENERATORS), "logistic")
        .says("docs/experiments.md (bso loss: sba, BSO's runs)", "The convex generator of the density-ratio loss; also as {name: sba, lambda: 0.2, scale: 4} or {kernel: \"cosh(0.7*u)\"}.")
        .only(&[Bso])
        .prominent(),
    Key::new("generator_params", Objective, Kind::Numbers, "")
        .by("generator", &[("ba", "0.2"), ("sba", "0.2,4"), ("phi_mu", "1.5")], Some(""))
        .says("BSO's runs (sba), its code (phi_mu)", "The generator's parameters in order: ba [lambda], sba [lambda, scale], phi_mu [mu]; the others have none.")
        .only(&[Bso])
        .prominent(),
    Key::optional("generator_lambda", Objective, Kind::Real(Range::ANY), &["none"], "as in generator_params")
        .says(METHOD, "lambda of ba and sba by name, > -1.")
        .only(&[Bso]),
    Key::optional("generator_scale", Objective, Kind::Real(Range::POSITIVE), &["none"], "as in generator_params")
        .says(METHOD, "s of sba by name; 4 gives DPO's gradient at log R = 0.")
        .only(&[Bso]),
    Key::optional("generator_mu", Objective, Kind::Real(Range::ANY), &["none"], "as in generator_params")
        .says(METHOD, "mu of phi_mu by name, not 2.")
        .only(&[Bso]),
    Key::optional("kernel", Objective, Kind::Text, &["none"], "needed by `generator: kernel` only")
        .says(METHOD, "An expression in u, even and positive, as \"2*cosh(0.7*u)\": the kernel of your own generator. Both properties are checked.")
        .only(&[Bso]),
    Key::optional("log_ratio_clamp", Objective, Kind::Interval, &["none"], "no bound")
        .by("generator", &[("logistic", "none"), ("phi_mu", "none")], Some("-30,30"))
        .unit("nats")
        .says("BSO's reference treatment", "Bounds of log R, `[-30, 30]` or none; on the command line -30,30. The losses that are steep on both sides need them.")
        .only(&[Bso]),
    Key::new("log_ratio_tail", Objective, Kind::Choice(TAILS), "clamp")
        .says("BSO's reference treatment", "Beyond the bounds: no gradient (clamp), or the loss goes on with the bound's slope (linear).")
        .only(&[Bso]),
    Key::new("label_smoothing", Objective, Kind::Real(Range::below(0.0, 0.5)), "0")
        .unit("probability")
        .says(TRL, "Assumed share of swapped preference labels.")
        .only(&[Bso, Cdpo])
        .aliases(&["dpo_label_smoothing"]),
    Key::new("delta", Objective, Kind::Real(Range::NOT_NEGATIVE), "10")
        .unit("reward units")
        .says("SafeDPO, best trade-off", "SafeDPO's safety offset; safety_penalty is accepted in its place.")
        .only(&[SafeDpo])
        .prominent(),
    Key::new("b1", Objective, Kind::Real(Range { low: 1.0, low_open: true, high: f64::INFINITY, high_open: true }), "3")
        .says("BFPO", "Weight of safety against helpfulness; b3 is 1 / (b1 - 1).")
        .only(&[Bfpo])
        .prominent(),
    Key::new("alpha", Objective, Kind::Real(Range::ANY), "0.5")
        .says("BFPO", "Shift of BFPO's labels.")
        .only(&[Bfpo])
        .prominent(),
    Key::optional("replay_dataset_name", Objective, Kind::Datasets, &["none"], "no such term")
        .says("BFPO", "General pairs whose responses count as safe: the same loss of as many of them is added in every micro-batch, by its own mean. They need no safety labels and take no safety_transform; as dataset_name.")
        .only(&[Bfpo])
        .aliases(&["replay_datasets"]),
    Key::new("w0", Objective, Kind::Real(Range::above(0.0, 1.0)), "0.5")
        .says("MODPO, middle of {0.1, 0.5, 0.9}", "Weight of the preference trained on; the margin has 1 - w0.")
        .only(&[Modpo])
        .prominent(),
    Key::optional("margin_model", Objective, Kind::Source, &["none"], "rows carry chosen_margin and rejected_margin")
        .says("MODPO", "Folder or name of the model whose log-ratios are the margins: m = beta (log pi_margin - log pi_ref), summed; a policy made safer by DPO. Margins in the rows are then not read.")
        .only(&[Modpo])
        .prominent(),
    Key::new("desirable_weight", Objective, Kind::Real(Range::NOT_NEGATIVE), "1")
        .says("TRL KTOConfig", "Weight of desirable rows.")
        .only(&[Kto])
        .prominent(),
    Key::new("undesirable_weight", Objective, Kind::Real(Range::NOT_NEGATIVE), "1")
        .says("TRL KTOConfig", "Weight of undesirable rows.")
        .only(&[Kto])
        .prominent(),
    Key::new("regularization", Objective, Kind::Real(Range::NOT_NEGATIVE), "0.001")
        .says("safe-rlhf's run scripts (its code: 0)", "Weight of the mean squared score, which keeps scores near 0.")
        .only(&[Reward, Cost])
        .prominent(),
    Key::new("score_layout", Objective, Kind::Choice(LAYOUTS), "transformers")
        .says(super::HERE, "How a new scalar head is stored: transformers' ...ForSequenceClassification, or safe-rlhf's ...ForScore with a bias and a normaliser that follows training (moving average, 0.9; kept, not applied). A model that has a head keeps its own layout.")
        .only(&[Reward, Cost])
        .prominent(),
];
