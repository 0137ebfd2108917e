//! Folding an adapter into the weights that it stands beside: `w += scale b a`, rows scaled where that is trained, after which the model is a plain one.

use crate::decoder::Decoder;
use crate::error::ModelError;
use bso_engine::{Array, DType};

impl Decoder {
    /// Folds the adapter into the weights, in f32; without one, nothing happens. A trained copy of one side of tied weights
    /// unties them.
    ///
    /// # Errors
    /// A base that is kept in few bits.
    pub fn merge_adapter(&mut self) -> Result<(), ModelError> {
        if self.adapter.is_none() {
            return Ok(());
        }
        self.refuse_quantised(
            "merge the adapter into the whole base: bso merge --model ADAPTER --output DIR",
        )?;
        self.refuse_rounded_base()?;
        self.fetch()?;
        let Some((adapter, mut arrays)) = self.drop_adapter() else { return Ok(()) };
        let (scale, engine) = (adapter.config.scale() as f32, self.engine().clone());
        for (weight, place) in &adapter.low_rank {
            let [a, b] = [place.a, place.b].map(|place| &arrays[place - adapter.first]);
            engine.add_low_rank(a, b, scale, &mut self.parameters[*weight])?;
            if let Some(magnitude) = place.magnitude {
                engine.set_row_norms(&mut self.parameters[*weight], &arrays[magnitude - adapter.first])?;
            }
        }
        let mut take =
            |place: usize| std::mem::replace(&mut arrays[place - adapter.first], Array::zeros(0, 0));
        let embedding = adapter.embedding.map(&mut take);
        let head = adapter.head.or(adapter.score).map(&mut take);
        if self.tied_head() && (embedding.is_some() || head.is_some()) {
            self.untie_head()?;
        }
        if let Some(embedding) = embedding {
            self.parameters[self.layout.embedding] = embedding;
        }
        if let Some(head) = head {
            self.parameters[self.layout.head] = head;
        }
        self.place()?;
        Ok(self.renew_packed()?)
    }

    /// Gives the head a tensor of its own, with the embedding's values.
    fn untie_head(&mut self) -> Result<(), ModelError> {
        let head = self.parameters[self.layout.embedding].clone();
        if self.dtype != DType::F32 {
            self.packed.push(Some(self.engine.packed_weight(head.rows(), head.cols(), true)?));
        }
        self.parameters.push(head);
        self.layout.untie_head(format!("{}.weight", self.config.family().names.head));
        self.config.untie_head();
        Ok(())
    }
}
