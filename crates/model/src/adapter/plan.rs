//! Which tensors an adapter of given settings has on a model, and how PEFT stores them.

use super::targets::{HEAD_MODULES, is_name_of};
use super::{Adapter, AdapterConfig, LowRankPlace, MAGNITUDE, PREFIX};
use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::layout::{Layout, TensorSpec};
use crate::stored::StoredTensor;
use bso_engine::Array;
use std::collections::BTreeMap;

/// The tensors of an adapter that is not attached yet, and where they will lie.
pub(crate) struct AdapterPlan {
    pub adapter: Adapter,
    pub tensors: Vec<TensorSpec>,
}

impl AdapterPlan {
    /// Of a model whose parameters are those of the layout.
    pub(crate) fn new(
        config: &AdapterConfig,
        (model, layout): (&ModelConfig, &Layout),
    ) -> Result<Self, ModelError> {
        config.check()?;
        let names = &model.family().names;
        let is_target = config.targets.matcher()?;
        let adapted_head = adapted_head((model, layout), &is_target)?;
        let mut list = TensorList { first: layout.tensors.len(), tensors: Vec::new(), stored: Vec::new() };
        let mut low_rank = BTreeMap::new();
        for stored in layout.stored.iter().filter(|stored| layout.is_linear(stored)) {
            if is_target(stored.name.trim_end_matches(".weight")) {
                low_rank.extend(list.low_rank(config, layout, stored));
            }
        }
        if let Some(module) = adapted_head {
            let [vocab, hidden] = [model.vocab_size, model.hidden_size];
            let name = format!("{module}.weight");
            let head = StoredTensor {
                name,
                shape: vec![vocab, hidden],
                parts: vec![layout.head],
                turn: None,
                transposed: false,
            };
            low_rank.extend(list.low_rank(config, layout, &head));
        }
        if low_rank.is_empty() {
            return Err(ModelError::argument(
                format!(
                    "no linear layer is called as lora_target_modules says: {:?}",
                    config.targets.words()
                ),
                "name some of its layers, as q_proj, or write all-linear",
            ));
        }
        let (mut embedding, mut head, mut score) = (None, None, None);
        for name in &config.modules_to_save {
            let embedding_module = format!("{}{}", names.body, names.embedding);
            let shape = [model.vocab_size, model.hidden_size];
            match name.as_str() {
                name if is_name_of(name, &embedding_module) => {
                    embedding = embedding.or_else(|| Some(list.whole(&embedding_module, &shape)));
                }
                name if model.score.is_some() => match name {
                    SCORE if layout.head_module() == Some(SCORE) => {
                        score = score.or_else(|| Some(list.whole(SCORE, &[1, model.hidden_size])));
                    }
                    other => return Err(cannot_be_whole(other, [names.embedding, SCORE])),
                },
                name if head_names(names.head).any(|head| head == name) => {
                    if adapted_head.is_some() {
                        return Err(ModelError::argument(
                            format!("{name} is both adapted and trained whole"),
                            "name it in lora_target_modules or in lora_modules_to_save, not in both",
                        ));
                    }
                    head = head.or_else(|| Some(list.whole(name, &shape)));
                }
                other => return Err(cannot_be_whole(other, [names.embedding, names.head])),
            }
        }
        let norm = |(place, low_rank): (&usize, &LowRankPlace)| {
            let rows = layout.tensors[*place].rows_cols().0;
            low_rank.magnitude.map(|_| (*place, Array::zeros(1, rows)))
        };
        let norms = low_rank.iter().filter_map(norm).collect();
        let TensorList { first, tensors, stored } = list;
        let adapter =
            Adapter { config: config.clone(), first, low_rank, stored, norms, embedding, head, score };
        Ok(Self { adapter, tensors })
    }
}

/// The head of transformers' `...ForSequenceClassification`.
pub(super) const SCORE: &str = "score";

/// The names that the output head of a family may have: GPT-NeoX's has had two.
fn head_names(own: &'static str) -> impl Iterator<Item = &'static str> {
    std::iter::once(own).chain(HEAD_MODULES.into_iter().filter(move |_| own != HEAD_MODULES[0]))
}

/// The name under which the output head is adapted, if it is.
fn adapted_head(
    (model, layout): (&ModelConfig, &Layout),
    is_target: &impl Fn(&str) -> bool,
) -> Result<Option<&'static str>, ModelError> {
    if let Some(scalar) = layout.head_module() {
        return match is_target(scalar) {
            false => Ok(None),
            true => Err(ModelError::argument(
                format!("the scalar head ({scalar}) cannot have a low-rank adapter"),
                "leave it out of lora_target_modules: it is trained whole",
            )),
        };
    }
    let Some(head) = head_names(model.family().names.head).find(|name| is_target(name)) else {
        return Ok(None);
    };
    if model.tied_head {
        return Err(ModelError::argument(
            format!(
                "the head ({head}) is the embedding (tie_word_embeddings), and cannot have an adapter of its own"
            ),
            format!(
                "leave it out of lora_target_modules, or train a copy of it whole: lora_modules_to_save: [{head}]"
            ),
        ));
    }
    Ok(Some(head))
}

fn cannot_be_whole(module: &str, [embedding, head]: [&str; 2]) -> ModelError {
    ModelError::argument(
        format!("{module:?} cannot be trained whole beside an adapter"),
        format!("lora_modules_to_save may name {embedding} and {head}"),
    )
}

struct TensorList {
    /// The place of the first one.
    first: usize,
    tensors: Vec<TensorSpec>,
    /// Their parts count from the first one.
    stored: Vec<StoredTensor>,
}

impl TensorList {
    fn push(&mut self, name: String, shape: &[usize]) -> usize {
        self.tensors.push(TensorSpec { name, shape: shape.to_vec() });
        self.first + self.tensors.len() - 1
    }

    fn store(&mut self, name: String, shape: &[usize], places: &[usize], turn: Option<usize>) {
        let parts = places.iter().map(|place| place - self.first).collect();
        self.stored.push(StoredTensor { name, shape: shape.to_vec(), parts, turn, transposed: false });
    }

    /// A copy of a module.
    fn whole(&mut self, module: &str, shape: &[usize]) -> usize {
        let name = format!("{PREFIX}{module}.weight");
        let place = self.push(name.clone(), shape);
        self.store(name, shape, &[place], None);
        place
    }

    /// The update of a stored matrix. Layers that share it share one `a`, as in PEFT's files, where the rows of `b` lie as
    /// the matrix's do.
    fn low_rank(
        &mut self,
        config: &AdapterConfig,
        layout: &Layout,
        stored: &StoredTensor,
    ) -> Vec<(usize, LowRankPlace)> {
        let named = |name: &str, end: &str| format!("{PREFIX}{}.{end}", name.trim_end_matches(".weight"));
        let inputs = stored.parts.first().map_or(0, |part| layout.tensors[*part].rows_cols().1);
        let name = named(&stored.name, "lora_A.weight");
        let a = self.push(name.clone(), &[config.r, inputs]);
        self.store(name, &[config.r, inputs], &[a], None);
        let (mut bs, mut magnitudes, mut outputs) = (Vec::new(), Vec::new(), 0);
        let mut place_of = |list: &mut Self, part: usize| {
            let spec = &layout.tensors[part];
            let rows = spec.rows_cols().0;
            outputs += rows;
            let b = list.push(named(&spec.name, "lora_B.weight"), &[rows, config.r]);
            let magnitude = config.dora.then(|| list.push(named(&spec.name, MAGNITUDE), &[rows]));
            bs.push(b);
            magnitudes.extend(magnitude);
            (part, LowRankPlace { a, b, magnitude })
        };
        let places = stored.parts.iter().map(|part| place_of(self, *part)).collect();
        self.store(named(&stored.name, "lora_B.weight"), &[outputs, config.r], &bs, stored.turn);
        if config.dora {
            self.store(named(&stored.name, MAGNITUDE), &[outputs], &magnitudes, stored.turn);
        }
        places
    }
}
