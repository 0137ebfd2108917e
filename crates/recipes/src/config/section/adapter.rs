//! The adapter that is trained in place of all weights.

use super::super::choices::QuantType;
use super::super::error::ConfigError;
use super::super::resolve::Resolver;
use super::super::value::Setting;
use super::Settings;
use bso_model::{AdapterConfig, Quantisation, Targets};

/// The adapter's settings; none where all weights are trained.
pub(in super::super) fn read(r: &Resolver) -> Result<Option<AdapterConfig>, ConfigError> {
    if !r.bool("use_peft")? {
        return Ok(None);
    }
    let words = |key| -> Result<Vec<String>, ConfigError> {
        Ok(if let Setting::Words(words) = r.get(key)? { words } else { Vec::new() })
    };
    let targets = match words("lora_target_modules")? {
        words if words.is_empty() => Targets::AllLinear,
        words => Targets::from_words(&words).map_err(|error| ConfigError::Conflict {
            place: r.place("lora_target_modules"),
            problem: format!("lora_target_modules: {error}"),
        })?,
    };
    Ok(Some(AdapterConfig {
        r: r.integer("lora_r")? as usize,
        alpha: r.real("lora_alpha")?,
        dropout: r.real("lora_dropout")?,
        targets,
        rslora: r.bool("use_rslora")?,
        dora: r.bool("use_dora")?,
        modules_to_save: words("lora_modules_to_save")?,
    }))
}

/// How the frozen base is kept, if in few bits.
pub(in super::super) fn read_quantisation(r: &Resolver) -> Result<Option<Quantisation>, ConfigError> {
    let (eight, four) = (r.bool("load_in_8bit")?, r.bool("load_in_4bit")?);
    let conflict =
        |key, problem: &str| Err(ConfigError::Conflict { place: r.place(key), problem: problem.into() });
    let named = if four { "load_in_4bit" } else { "load_in_8bit" };
    if eight && four {
        return conflict(named, "load_in_8bit and load_in_4bit contradict each other; keep one");
    }
    if (eight || four) && !r.bool("use_peft")? {
        let problem = "weights in few bits are frozen, and without an adapter all weights are trained; set use_peft: true, \
                       or remove the key";
        return conflict(named, &format!("{named}: {problem}"));
    }
    let QuantType::Nf4 = r.choice("bnb_4bit_quant_type")?;
    Ok(match (eight, four) {
        (true, _) => Some(Quantisation::Int8),
        (_, true) => Some(Quantisation::Nf4 { nested: r.bool("use_bnb_nested_quant")? }),
        _ => None,
    })
}

/// A base in few bits only: the checkpoints of other runs say nothing of it.
pub(in super::super) fn write_quantisation(quantisation: Option<Quantisation>, out: &mut Settings) {
    match quantisation {
        None => {}
        Some(Quantisation::Int8) => out.bool("load_in_8bit", true),
        Some(Quantisation::Nf4 { nested }) => {
            out.bool("load_in_4bit", true);
            out.choice("bnb_4bit_quant_type", QuantType::Nf4);
            out.bool("use_bnb_nested_quant", nested);
        }
    }
}

pub(in super::super) fn write(adapter: Option<&AdapterConfig>, out: &mut Settings) {
    out.bool("use_peft", adapter.is_some());
    let Some(adapter) = adapter else { return };
    out.integer("lora_r", adapter.r as u64);
    out.real("lora_alpha", adapter.alpha);
    out.real("lora_dropout", adapter.dropout);
    match &adapter.targets {
        Targets::AllLinear => out.put("lora_target_modules", Setting::Absent),
        targets => out.put("lora_target_modules", Setting::Words(targets.words())),
    }
    out.put(
        "lora_modules_to_save",
        match adapter.modules_to_save.as_slice() {
            [] => Setting::Absent,
            modules => Setting::Words(modules.to_vec()),
        },
    );
    out.bool("use_rslora", adapter.rslora);
    out.bool("use_dora", adapter.dora);
}
