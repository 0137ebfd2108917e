//! How the attention of single layers differs within a model: window, rotary embedding, scale. Read from
//! `config.json` by the rule of the family.

use crate::config_fields::Fields;
use crate::error::ModelError;
use crate::family::{Family, Positions, Scale, Windows};
use serde_json::Value;

/// The attention of one layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LayerKind {
    /// Tokens that a token sees at most, itself among them; all where there is none.
    pub window: Option<usize>,
    /// Which of the model's rotary embeddings turns queries and keys, if any.
    pub rope: Option<usize>,
    /// Factor on the scores.
    pub scale: f32,
}

const FULL: &str = "full_attention";
const SLIDING: &str = "sliding_attention";

impl Fields<'_> {
    pub(crate) fn layer_kinds(
        &self,
        family: &Family,
        layers: usize,
        head_dim: usize,
    ) -> Result<Vec<LayerKind>, ModelError> {
        let turned = self.rope_layers(family, layers)?;
        let windows = self.windows(family, &turned)?;
        let kind = |(index, (turned, window)): (usize, (bool, Option<usize>))| {
            let rope = match family.positions {
                Positions::RotaryByWindow => usize::from(window.is_some()),
                _ => 0,
            };
            let scale = self.scale(family, head_dim, index)?;
            Ok(LayerKind { window, rope: turned.then_some(rope), scale })
        };
        turned.into_iter().zip(windows).enumerate().map(kind).collect()
    }

    /// Which layers have rotary embedding.
    fn rope_layers(&self, family: &Family, layers: usize) -> Result<Vec<bool>, ModelError> {
        if family.positions == Positions::Learned {
            return Ok(vec![false; layers]);
        }
        if !family.no_rope_layers {
            return Ok(vec![true; layers]);
        }
        let marks = "no_rope_layers";
        if self.absent(marks) {
            let interval = self.size("no_rope_layer_interval", Some(4), u64::from(u32::MAX))?;
            return Ok((1..=layers).map(|n| n % interval != 0).collect());
        }
        let list = self.map[marks].as_array().filter(|list| list.len() >= layers);
        let mark = |value: &Value| match value.as_u64() {
            Some(mark @ (0 | 1)) => Some(mark == 1),
            _ => None,
        };
        let marked = list.and_then(|list| list.iter().take(layers).map(mark).collect::<Option<_>>());
        marked.ok_or_else(|| {
            let problem = format!("{marks} = {} is not a list of {layers} marks 0 or 1", self.map[marks]);
            self.wrong(problem, "correct the field")
        })
    }

    fn windows(&self, family: &Family, turned: &[bool]) -> Result<Vec<Option<usize>>, ModelError> {
        let layers = turned.len();
        let on = match family.windows {
            Windows::Never => false,
            Windows::FromLayer | Windows::WithoutRope => self.flag("use_sliding_window", false)?,
            Windows::Every | Windows::AllButEvery(..) => true,
        };
        let window = match (on, self.map.get("sliding_window")) {
            (false, _) | (_, Some(Value::Null)) => None,
            (true, None) => family.defaults.window,
            (true, Some(_)) => Some(self.size("sliding_window", None, u64::from(u32::MAX))?),
        };
        let slides: Vec<bool> = match family.windows {
            Windows::Never => vec![false; layers],
            Windows::Every => vec![window.is_some(); layers],
            Windows::FromLayer => {
                let first = self.whole_number("max_window_layers", 28)?;
                (0..layers).map(|i| window.is_some() && i >= first).collect()
            }
            Windows::WithoutRope => turned.iter().map(|turned| window.is_some() && !turned).collect(),
            Windows::AllButEvery(key, default) => {
                let every = key.map_or(Ok(default), |key| self.size(key, Some(default), 1 << 20))?;
                (1..=layers).map(|n| n % every != 0).collect()
            }
        };
        let listed = self.listed_layer_types(layers)?;
        let fixed = matches!(family.windows, Windows::Never | Windows::Every);
        if let Some(listed) = listed.as_ref().filter(|listed| fixed && **listed != slides) {
            let (kind, only) = if slides[0] { (FULL, SLIDING) } else { (SLIDING, FULL) };
            let count = listed.iter().filter(|slides| (**slides) == (kind == SLIDING)).count();
            return Err(self.wrong(
                format!(
                    "layer_types = {kind:?} in {count} layers is not supported in a {}",
                    family.model_type
                ),
                format!("supported here: {only:?} in every layer"),
            ));
        }
        let slides = listed.unwrap_or(slides);
        if window.is_none() && slides.contains(&true) {
            return Err(self.wrong(
                format!("layers of {SLIDING:?} have no sliding_window"),
                "set sliding_window (and use_sliding_window where the family has it), or correct layer_types",
            ));
        }
        Ok(slides.into_iter().map(|slides| window.filter(|_| slides)).collect())
    }

    /// Whether each layer slides, by `layer_types`.
    fn listed_layer_types(&self, layers: usize) -> Result<Option<Vec<bool>>, ModelError> {
        if self.absent("layer_types") {
            return Ok(None);
        }
        let kinds = self.map["layer_types"].as_array().filter(|kinds| kinds.len() == layers);
        let Some(kinds) = kinds else {
            let problem = format!("layer_types does not list the kinds of {layers} layers");
            return Err(self.wrong(problem, "correct the field"));
        };
        let slides = |kind: &Value| match kind.as_str() {
            Some(FULL) => Ok(false),
            Some(SLIDING) => Ok(true),
            _ => Err(self.wrong(
                format!("layer_types = {kind} is not supported"),
                format!("supported: {FULL:?}, {SLIDING:?}"),
            )),
        };
        kinds.iter().map(slides).collect::<Result<_, _>>().map(Some)
    }

    fn scale(&self, family: &Family, head_dim: usize, index: usize) -> Result<f32, ModelError> {
        let plain = 1.0 / (head_dim as f64).sqrt();
        let scale = match family.scale {
            Scale::HeadDim => plain,
            Scale::PreAttention => {
                let scalar = self.number(self.map, "query_pre_attn_scalar", Some(256.0), 0.0)?;
                if scalar == 0.0 {
                    return Err(self.wrong("query_pre_attn_scalar = 0", "correct the field"));
                }
                1.0 / scalar.sqrt()
            }
            Scale::Switched => {
                let scale = if self.flag("scale_attn_weights", true)? { plain } else { 1.0 };
                let by_layer = self.flag("scale_attn_by_inverse_layer_idx", false)?;
                if by_layer { scale / (index + 1) as f64 } else { scale }
            }
        };
        Ok(scale as f32)
    }
}
