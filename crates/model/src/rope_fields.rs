//! The rotary fields of `config.json`, in both layouts: `rope_theta` with `rope_scaling`, and transformers 5's
//! `rope_parameters` that holds all.

use crate::config_fields::Fields;
use crate::error::ModelError;
use crate::family::{Family, Positions};
use crate::rope::{Rope, RopeScaling};
use serde_json::{Map, Value};

const BOTH: [&str; 2] = ["full_attention", "sliding_attention"];

impl Fields<'_> {
    /// The model's rotary embeddings, and how many values of a head they turn.
    pub(crate) fn ropes(
        &self,
        family: &Family,
        max_positions: usize,
        head_dim: usize,
    ) -> Result<(Vec<Rope>, usize), ModelError> {
        let empty = Map::new();
        let given = ["rope_parameters", "rope_scaling"].into_iter().find(|key| !self.absent(key));
        let map = match given.map(|key| (key, &self.map[key])) {
            None => &empty,
            Some((_, Value::Object(map))) => map,
            Some((key, value)) => {
                return Err(self.wrong(format!("{key} = {value} is not an object"), "correct the field"));
            }
        };
        let theta = family.defaults.rope_theta;
        match family.positions {
            Positions::Learned => Ok((Vec::new(), 0)),
            Positions::Rotary(key) => {
                if let Some(nested) = BOTH.into_iter().find(|key| map.contains_key(*key)) {
                    return Err(self.wrong(
                        format!("rotary parameters by {nested} are not supported in a {}", family.model_type),
                        "use a checkpoint with one rotary embedding",
                    ));
                }
                let rope = self.rope(family, map, (key, theta), max_positions)?;
                Ok((vec![rope], self.rotary_dim(family, map, head_dim)?))
            }
            // Nested by kind of attention, or flat: then the scaling is that of full attention.
            Positions::RotaryByWindow => {
                let nested = BOTH.into_iter().any(|key| map.contains_key(key));
                let part = |key: &str| map.get(key).and_then(Value::as_object).unwrap_or(&empty);
                let [full, sliding] = if nested { BOTH.map(part) } else { [map, &empty] };
                let full = self.rope(family, full, ("rope_theta", theta), max_positions)?;
                let local = ("rope_local_base_freq", 10_000.0);
                Ok((vec![full, self.rope(family, sliding, local, max_positions)?], head_dim))
            }
        }
    }

    /// Values of a head that turn: all, or a share of them.
    fn rotary_dim(
        &self,
        family: &Family,
        map: &Map<String, Value>,
        head_dim: usize,
    ) -> Result<usize, ModelError> {
        let key = "partial_rotary_factor";
        let Some(outer) = family.keys.rotary_share else {
            return match map.get(key).filter(|v| !v.is_null() && v.as_f64() != Some(1.0)) {
                None => Ok(head_dim),
                Some(value) => Err(self.wrong(
                    format!("{key} = {value} is not supported in a {}", family.model_type),
                    "use a checkpoint that rotates whole heads",
                )),
            };
        };
        let default = self.number(self.map, outer, Some(family.defaults.rotary_share), 0.0)?;
        let share = self.number(map, key, Some(default), 0.0)?;
        let width = (head_dim as f64 * share) as usize;
        if width == 0 || width > head_dim || !width.is_multiple_of(2) {
            return Err(self.wrong(
                format!("{outer} = {share} turns {width} of a head's {head_dim} values"),
                "an even number above zero and within the head is supported",
            ));
        }
        Ok(width)
    }

    fn rope(
        &self,
        family: &Family,
        map: &Map<String, Value>,
        (theta_key, default_theta): (&str, f64),
        max_positions: usize,
    ) -> Result<Rope, ModelError> {
        let kind =
            map.get("rope_type").or_else(|| map.get("type")).and_then(Value::as_str).unwrap_or("default");
        let remedy = || format!("supported in a {}: {}", family.model_type, family.rope_types.join(", "));
        if !family.rope_types.contains(&kind) {
            return Err(self.wrong(format!("rope type {kind:?} is not supported"), remedy()));
        }
        for key in ["mrope_section", "short_factor", "long_factor"] {
            if let Some(value) = map.get(key).filter(|v| !v.is_null()) {
                return Err(self.wrong(
                    format!("rotary parameter {key} = {value} is not supported"),
                    "use a text-only checkpoint without longrope (128k versions have it)",
                ));
            }
        }
        let outer = self.number(self.map, theta_key, Some(default_theta), 1.0)?;
        let theta = self.number(map, "rope_theta", Some(outer), 1.0)?;
        if theta <= 1.0 {
            return Err(self.wrong("rope_theta = 1 gives no rotation", "correct the field"));
        }
        let factor = || self.number(map, "factor", None, 1.0);
        let outer_original =
            self.number(self.map, "original_max_position_embeddings", Some(max_positions as f64), 1.0)?;
        let original = || self.number(map, "original_max_position_embeddings", Some(outer_original), 1.0);
        let scaling = match kind {
            "default" => RopeScaling::None,
            "linear" => RopeScaling::Linear { factor: factor()? },
            "dynamic" => RopeScaling::Dynamic { factor: factor()? },
            "llama3" => RopeScaling::Llama3 {
                factor: factor()?,
                low_freq_factor: self.number(map, "low_freq_factor", None, 0.0)?,
                high_freq_factor: self.number(map, "high_freq_factor", None, 0.0)?,
                original_max_position_embeddings: original()?,
            },
            "yarn" => self.yarn(map, max_positions as f64, original()?)?,
            other => {
                return Err(self.wrong(format!("rope type {other:?} is not supported"), remedy()));
            }
        };
        if let RopeScaling::Llama3 { low_freq_factor: low, high_freq_factor: high, .. } = scaling
            && !(low > 0.0 && high > low)
        {
            return Err(self.wrong(
                format!("high_freq_factor {high} must be above low_freq_factor {low}, and both above 0"),
                "correct the two fields",
            ));
        }
        Ok(Rope { theta, scaling })
    }

    fn yarn(
        &self,
        map: &Map<String, Value>,
        max_positions: f64,
        original: f64,
    ) -> Result<RopeScaling, ModelError> {
        let factor = self.number(map, "factor", Some((max_positions / original).max(1.0)), 1.0)?;
        let magnitude = |scale: f64, m: f64| if scale <= 1.0 { 1.0 } else { 0.1 * m * scale.ln() + 1.0 };
        let (m, m_all) = (
            self.number(map, "mscale", Some(0.0), 0.0)?,
            self.number(map, "mscale_all_dim", Some(0.0), 0.0)?,
        );
        let inferred = if m != 0.0 && m_all != 0.0 {
            magnitude(factor, m) / magnitude(factor, m_all)
        } else {
            magnitude(factor, 1.0)
        };
        let or_default = |x: f64, default: f64| if x == 0.0 { default } else { x };
        Ok(RopeScaling::Yarn {
            factor,
            attention_factor: self.number(map, "attention_factor", Some(inferred), 0.0)?,
            beta_fast: or_default(self.number(map, "beta_fast", Some(32.0), 0.0)?, 32.0),
            beta_slow: or_default(self.number(map, "beta_slow", Some(1.0), 0.0)?, 1.0),
            truncate: map.get("truncate").and_then(Value::as_bool).unwrap_or(true),
            original_max_position_embeddings: original,
        })
    }
}
