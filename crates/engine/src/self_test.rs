//! What a device is asked before it is trusted: the operations of a training step on few rows, in f32 and in bf16, beside the
//! processor's. A chip, driver or library that computes other numbers is refused before it trains anything.

use crate::{
    Accumulate, AdamW, AdamWState, Array, AttentionForward, AttentionGrads, AttentionShape, DType, Engine,
    EngineError, HeadInputs, LinearGrads, PackedWeight, Qkv, RmsNormGrads, RotaryTable, Segment, Segments,
    SelectedLogProbGrads, SwigluGrads, Weight,
};

/// Rows, and sizes that are no multiples of any tile.
const ROWS: usize = 75;
const HEADS: usize = 3;
const HEAD_DIM: usize = 40;
const WIDTH: usize = HEADS * HEAD_DIM;
const VOCABULARY: usize = 150;

/// What the two may differ by, relative to the largest value: sums in another order, and in bf16 what lies between two
/// products rounded once or twice. Wrong numbers differ by far more.
const F32: f32 = 1e-4;
const BF16: f32 = 4e-2;

impl Engine {
    /// Compares the device with the processor.
    ///
    /// # Errors
    /// The device fails, or differs: the operation is named.
    pub(crate) fn test_device(&self) -> Result<(), EngineError> {
        for dtype in [DType::F32, DType::Bf16] {
            let [host, device] = [false, true].map(|on_device| Pass { engine: self, dtype, on_device }.run());
            let tolerance = if dtype == DType::F32 { F32 } else { BF16 };
            for ((what, expected), (_, found)) in host?.iter().zip(&device?) {
                let largest = expected.iter().fold(1e-3_f32, |most, x| most.max(x.abs()));
                let near = |(found, expected): (&f32, &f32)| (found - expected).abs() <= tolerance * largest;
                if found.len() != expected.len() || !found.iter().zip(expected).all(near) {
                    let (device, name, dtype) = (self.device(), self.description(), dtype.name());
                    return Err(EngineError::Device(format!(
                        "{device} ({name}) gives other numbers than the processor: {what} in {dtype}. It is not used; \
                         set `device: cpu`, and report what `nvidia-smi` and `bso --version` print"
                    )));
                }
            }
        }
        Ok(())
    }
}

/// A result and the operation that gave it.
type Named = (&'static str, Vec<f32>);

/// The operations on one side.
struct Pass<'a> {
    engine: &'a Engine,
    dtype: DType,
    on_device: bool,
}

impl Pass<'_> {
    fn run(&self) -> Result<Vec<Named>, EngineError> {
        let (engine, mut found) = (self.engine, Vec::new());
        let segments = Segments::new(
            vec![
                Segment { start: 0, len: 30, context: None },
                Segment { start: 30, len: 25, context: Some((0, 30)) },
                Segment { start: 55, len: 20, context: Some((0, 30)) },
            ],
            ROWS,
        )?;
        let (x, weight) = (self.numbers(1, ROWS, WIDTH)?, self.numbers(2, 1, WIDTH)?);
        let (mut normed, mut inverse) = (self.room(self.dtype, ROWS, WIDTH)?, self.sums(ROWS, 1)?);
        engine.rms_norm(&x, &weight, 1e-6, &mut normed, &mut inverse)?;
        found.push(("rms_norm", self.values(&normed)?));

        let w = self.numbers(3, WIDTH, WIDTH)?;
        let packed = self.packed(&w)?;
        let factor = Weight::new(&w, Some(&packed));
        let mut q = self.room(self.dtype, ROWS, WIDTH)?;
        engine.linear(&normed, factor, None, &mut q)?;
        found.push(("linear", self.values(&q)?));
        let (dy, mut dx, mut dw) =
            (self.numbers(4, ROWS, WIDTH)?, self.sums(ROWS, WIDTH)?, self.sums(WIDTH, WIDTH)?);
        let gradients = LinearGrads {
            dy: &dy,
            x: &normed,
            w: factor,
            dx: Some((&mut dx, Accumulate::Overwrite)),
            dw: Some(&mut dw),
            db: None,
        };
        engine.linear_backward(gradients)?;
        found
            .extend([("linear_backward (input)", self.values(&dx)?), ("linear_backward", self.values(&dw)?)]);

        let frequencies: Vec<f32> = (0..HEAD_DIM / 2).map(|i| 1.0 / (1.0 + i as f32)).collect();
        let positions: Vec<u32> = (0..ROWS as u32).map(|row| row % 40).collect();
        engine.rotary(&mut q, &positions, &RotaryTable::new(&frequencies, 1.0, 40), false)?;
        found.push(("rotary", self.values(&q)?));

        let [k, v] = [self.products(5, ROWS, HEAD_DIM)?, self.products(6, ROWS, HEAD_DIM)?];
        let shape = AttentionShape {
            heads: HEADS,
            kv_heads: 1,
            head_dim: HEAD_DIM,
            scale: 0.2,
            window: None,
            cap: None,
        };
        let (mut out, mut lse) = (self.room(self.dtype, ROWS, WIDTH)?, self.sums(ROWS, HEADS)?);
        let qkv = Qkv { q: &q, k: &k, v: &v };
        engine.attention(qkv, &segments, shape, &mut out, &mut lse)?;
        found.push(("attention", self.values(&out)?));
        let [mut dq, mut dk, mut dv] =
            [self.sums(ROWS, WIDTH)?, self.sums(ROWS, HEAD_DIM)?, self.sums(ROWS, HEAD_DIM)?];
        let forward = AttentionForward { out: &out, lse: &lse, dout: &dy };
        let gradients = AttentionGrads { dq: &mut dq, dk: &mut dk, dv: &mut dv };
        engine.attention_backward(qkv, forward, &segments, shape, gradients)?;
        found.extend([
            ("attention_backward (queries)", self.values(&dq)?),
            ("attention_backward (keys)", self.values(&dk)?),
            ("attention_backward (values)", self.values(&dv)?),
        ]);

        let up = self.products(7, ROWS, WIDTH)?;
        let [mut gated, mut dgate, mut dup] = [
            self.room(self.dtype, ROWS, WIDTH)?,
            self.room(self.dtype, ROWS, WIDTH)?,
            self.room(self.dtype, ROWS, WIDTH)?,
        ];
        engine.swiglu(&out, &up, &mut gated)?;
        found.push(("swiglu", self.values(&gated)?));
        let grads = SwigluGrads { dout: &gated, gate: &out, up: &up, dgate: &mut dgate, dup: &mut dup };
        engine.swiglu_backward(grads)?;
        found.push(("swiglu_backward", self.values(&dgate)?));

        self.head(&normed, &mut found)?;
        let (mut dx, mut dweight) = (self.sums(ROWS, WIDTH)?, self.sums(1, WIDTH)?);
        engine.rms_norm_backward(RmsNormGrads {
            dy: &dy,
            x: &x,
            weight: (&weight).into(),
            inv_rms: &inverse,
            dx: (&mut dx, Accumulate::Overwrite),
            dweight: Some(&mut dweight),
        })?;
        found.extend([
            ("rms_norm_backward (input)", self.values(&dx)?),
            ("rms_norm_backward", self.values(&dweight)?),
        ]);
        self.update(w, &dw, &mut found)?;
        Ok(found)
    }

    fn head(&self, hidden: &Array, found: &mut Vec<Named>) -> Result<(), EngineError> {
        let (engine, head) = (self.engine, self.numbers(8, VOCABULARY, WIDTH)?);
        let packed = self.packed(&head)?;
        let targets: Vec<u32> = (0..ROWS).map(|row| (row * 7 % VOCABULARY) as u32).collect();
        let inputs = HeadInputs {
            hidden,
            head: Weight::new(&head, Some(&packed)),
            targets: &targets,
            cap: None,
            update: None,
        };
        let (mut log_probs, mut lse) = (vec![0.0; ROWS], self.sums(ROWS, 1)?);
        engine.selected_log_prob(inputs, &mut log_probs, &mut lse)?;
        found.push(("selected_log_prob", log_probs.iter().map(|x| *x as f32).collect()));
        let weights: Vec<f32> = (0..ROWS).map(|row| number(9, row)).collect();
        let (mut dhidden, mut dhead) = (self.sums(ROWS, WIDTH)?, self.sums(VOCABULARY, WIDTH)?);
        let grads = SelectedLogProbGrads {
            lse: &lse,
            weights: &weights,
            dhidden: &mut dhidden,
            dhead: Some(&mut dhead),
            dupdate: None,
        };
        engine.selected_log_prob_backward(inputs, grads)?;
        found.extend([
            ("selected_log_prob_backward (input)", self.values(&dhidden)?),
            ("selected_log_prob_backward", self.values(&dhead)?),
        ]);
        Ok(())
    }

    fn update(&self, mut w: Array, dw: &Array, found: &mut Vec<Named>) -> Result<(), EngineError> {
        let [mut first, mut second] = [self.sums(WIDTH, WIDTH)?, self.sums(WIDTH, WIDTH)?];
        // A rate so large and an epsilon so coarse that the update shows, and does not follow a gradient's last bits.
        let rule =
            AdamW { learning_rate: 0.1, beta1: 0.9, beta2: 0.99, epsilon: 1.0, weight_decay: 0.1, step: 1 };
        let state = AdamWState {
            parameter: &mut w,
            gradient: dw,
            first_moment: &mut first,
            second_moment: &mut second,
        };
        self.engine.adamw_update(state, 0.5, &rule)?;
        found.push(("adamw_update", self.values(&w)?));
        let norm = self.engine.squared_norm(&[dw])?;
        found.push(("squared_norm", vec![norm.sqrt() as f32]));
        Ok(())
    }

    /// Numbers in f32.
    fn numbers(&self, seed: usize, rows: usize, cols: usize) -> Result<Array, EngineError> {
        let values = (0..rows * cols).map(|index| number(seed, index)).collect();
        self.placed(Array::from_vec(rows, cols, values)?)
    }

    /// Numbers in the precision of products.
    fn products(&self, seed: usize, rows: usize, cols: usize) -> Result<Array, EngineError> {
        let values = (0..rows * cols).map(|index| number(seed, index)).collect();
        self.placed(Array::from_vec(rows, cols, values)?.to_dtype(self.dtype)?)
    }

    fn packed(&self, w: &Array) -> Result<PackedWeight, EngineError> {
        let (rows, cols) = (w.rows(), w.cols());
        let mut packed = if self.on_device {
            self.engine.packed_weight(rows, cols, true)?
        } else {
            PackedWeight::new(rows, cols, true)
        };
        self.engine.pack_weight(w, &mut packed)?;
        Ok(packed)
    }

    fn sums(&self, rows: usize, cols: usize) -> Result<Array, EngineError> {
        self.room(DType::F32, rows, cols)
    }

    fn room(&self, dtype: DType, rows: usize, cols: usize) -> Result<Array, EngineError> {
        self.placed(Array::zeros_of(dtype, rows, cols)?)
    }

    fn placed(&self, array: Array) -> Result<Array, EngineError> {
        if self.on_device { self.engine.place(array) } else { Ok(array) }
    }

    fn values(&self, array: &Array) -> Result<Vec<f32>, EngineError> {
        Ok(array.on_host()?.to_f32_vec())
    }
}

/// A number in [-1, 1) that looks random: the same for the same seed and index.
fn number(seed: usize, index: usize) -> f32 {
    let mixed = (index as u32).wrapping_add(seed as u32 * 1_000_003).wrapping_mul(0x9e37_79b9);
    let mixed = (mixed ^ (mixed >> 15)).wrapping_mul(0x85eb_ca6b);
    ((mixed ^ (mixed >> 13)) >> 8) as f32 / (1 << 23) as f32 - 1.0
}
