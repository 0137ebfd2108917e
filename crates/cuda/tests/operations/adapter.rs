//! Low-rank updates and DoRA, forward and backward, put together from products, dropout and what these need besides.

use bso_cuda::operation::{
    self, Factor, ScaledColumns, Update, add_length_gradient, add_scaled_columns, convert, dropout,
    length_factors, partial_sums, product, row_norms, scale, scale_columns,
};
use bso_cuda::{Number, View};
use bso_engine::{
    Accumulate, Array, DType, Dora, DoraGrads, Dropout, Engine, LowRank, LowRankGrads, PackedWeight,
    RowLengths, Weight,
};

use crate::machine::{BF16, F32, Held, Machine, assert_close, on_every_machine, random, random_of, zeros_of};

const SCALE: f32 = 1.5;
const DROPOUTS: [Option<Dropout>; 2] = [None, Some(Dropout { rate: 0.3, key: 11, first_row: 2 })];
const SHAPES: [[usize; 4]; 2] = [[1, 1, 1, 1], [37, 70, 5, 41]];
/// Sums of factors that were rounded on the way, at places that fall on either side of a rounding.
const TOLERANCE_BF16: f64 = 2.0 * BF16;

/// What a step of a layer has on a machine.
struct Layer<'a> {
    machine: &'a Machine<'a>,
    dropout: Option<Dropout>,
    /// The weight and its update as the products read them.
    w: Held,
    a: Held,
    b: Held,
    /// The input, and what the update sees of it.
    x: Held,
    seen: Held,
    /// `scale seen a^T`.
    inner: Held,
}

impl<'a> Layer<'a> {
    fn new(machine: &'a Machine<'a>, x: &Array, [w, a, b]: [&Array; 3], dropped: Option<Dropout>) -> Self {
        let [w, a, b] = [w, a, b].map(|array| machine.array(&array.to_dtype(x.dtype()).unwrap()));
        let (x, seen) = (machine.array(x), machine.array(x));
        if let Some(Dropout { rate, key, first_row }) = dropped {
            let mask = operation::Dropout { rate, key, first_row: first_row as u64 };
            dropout(machine.on(), mask, x.view(), seen.view(), false).unwrap();
        }
        let inner = machine.room(a.view().number(), x.view().rows(), a.view().rows());
        let layer = Self { machine, dropout: dropped, w, a, b, x, seen, inner };
        let wide = layer.room(layer.a.view().rows());
        layer.times(&layer.seen, &layer.a, wide.view(), false);
        layer.scaled(&wide, layer.inner.view());
        layer
    }

    /// `y (+)= x w^T`
    fn times(&self, x: &Held, w: &Held, y: View<'_>, add: bool) {
        product(self.machine.on(), Factor::plain(x.view()), Factor::transposed(w.view()), y, add).unwrap();
    }

    /// `dx (+)= dy w`
    fn back(&self, dy: &Held, w: &Held, dx: View<'_>, add: bool) {
        product(self.machine.on(), Factor::plain(dy.view()), Factor::plain(w.view()), dx, add).unwrap();
    }

    /// `dw += dy^T x`
    fn add_gradient(&self, dy: &Held, x: &Held, dw: &Held) {
        let (dy, x) = (Factor::transposed(dy.view()), Factor::plain(x.view()));
        product(self.machine.on(), dy, x, dw.view(), true).unwrap();
    }

    /// `to = SCALE wide`, in the precision of the inner product.
    fn scaled(&self, wide: &Held, to: View<'_>) {
        scale(self.machine.on(), wide.view(), SCALE).unwrap();
        self.copy(wide, to);
    }

    fn copy(&self, from: &Held, to: View<'_>) {
        let (on, from) = (self.machine.on(), from.view());
        let same = from.number() == to.number();
        if same {
            let ones = self.machine.floats(&vec![1.0; from.cols()]);
            add_scaled_columns(on, from, (ones.view(), 0.0), to, false).unwrap();
        } else {
            convert(on, from, to).unwrap();
        }
    }

    fn room(&self, cols: usize) -> Held {
        self.machine.room(Number::F32, self.x.view().rows(), cols)
    }

    /// Adds the gradients of `a` and `b`; gives that of the inner product.
    fn update_grads(&self, dy: &Held, [da, db]: [&Held; 2]) -> Held {
        self.add_gradient(dy, &self.inner, db);
        let view = self.inner.view();
        let dinner = self.machine.room(view.number(), view.rows(), view.cols());
        let wide = self.room(view.cols());
        self.back(dy, &self.b, wide.view(), false);
        self.scaled(&wide, dinner.view());
        self.add_gradient(&dinner, &self.seen, da);
        dinner
    }

    /// `dx += drop'(dseen)`
    fn through_dropout(&self, dropped: Dropout, dseen: &Held, dx: &Held) {
        let Dropout { rate, key, first_row } = dropped;
        let mask = operation::Dropout { rate, key, first_row: first_row as u64 };
        dropout(self.machine.on(), mask, dseen.view(), dx.view(), true).unwrap();
    }

    fn low_rank(&self, y: &Held) {
        self.times(&self.inner, &self.b, y.view(), true);
    }

    fn low_rank_backward(&self, dy: &Held, dx: &Held, grads: [&Held; 2]) {
        let dinner = self.update_grads(dy, grads);
        match self.dropout {
            None => self.back(&dinner, &self.a, dx.view(), true),
            Some(dropped) => {
                let dseen = self.room(dx.view().cols());
                self.back(&dinner, &self.a, dseen.view(), false);
                self.through_dropout(dropped, &dseen, dx);
            }
        }
    }

    fn dora(&self, factors: &Held, bias: &Held, y: &Held) {
        let (on, cols) = (self.machine.on(), y.view().cols());
        let (updated, rest) = (self.room(cols), self.room(cols));
        let dropped = self.dropout.is_some();
        self.times(&self.seen, &self.w, updated.view(), false);
        if dropped {
            self.times(&self.x, &self.w, rest.view(), false);
            let of = (factors.view(), 1.0);
            add_scaled_columns(on, updated.view(), of, rest.view(), true).unwrap();
        }
        self.times(&self.inner, &self.b, updated.view(), !dropped);
        let (bias, rest) = (Some(bias.view()), dropped.then_some(rest.view()));
        let columns = ScaledColumns { x: updated.view(), factors: factors.view(), bias, rest };
        scale_columns(on, columns, y.view()).unwrap();
    }

    /// `lengths` are norm, factors and the magnitude's gradient.
    fn dora_backward(&self, dy: &Held, [norm, factors, dm]: [&Held; 3], dx: &Held, grads: [&Held; 2]) {
        let (on, cols) = (self.machine.on(), dy.view().cols());
        let (updated, wide, n) = (self.room(cols), self.room(cols), dy.view().rows());
        self.copy(dy, wide.view());
        self.times(&self.seen, &self.w, updated.view(), false);
        self.times(&self.inner, &self.b, updated.view(), true);
        let partial = self.machine.room(Number::F64, 1, partial_sums(n, cols));
        let (x, lengths) = ((updated.view(), None), [norm.view(), dm.view()]);
        add_length_gradient(on, x, wide.view(), lengths, partial.view()).unwrap();
        add_scaled_columns(on, wide.view(), (factors.view(), 0.0), updated.view(), false).unwrap();
        let dinner = self.update_grads(&updated, grads);
        let Some(dropped) = self.dropout else {
            self.back(&updated, &self.w, dx.view(), false);
            return self.back(&dinner, &self.a, dx.view(), true);
        };
        self.back(&wide, &self.w, dx.view(), false);
        add_scaled_columns(on, wide.view(), (factors.view(), 1.0), updated.view(), false).unwrap();
        let dseen = self.room(dx.view().cols());
        self.back(&updated, &self.w, dseen.view(), false);
        self.back(&dinner, &self.a, dseen.view(), true);
        self.through_dropout(dropped, &dseen, dx);
    }
}

/// The CPU's weights, packed where products in bf16 read them.
fn packed(engine: &Engine, w: &Array) -> PackedWeight {
    let mut packed = PackedWeight::new(w.rows(), w.cols(), true);
    engine.pack_weight(w, &mut packed).unwrap();
    packed
}

fn rows_of(x: &Held, first: usize, rows: usize, cols: usize) -> View<'_> {
    x.view().part(first * cols, rows, cols).unwrap()
}

fn every_case(test: impl Fn(&Machine<'_>, [usize; 4], (DType, f64), Option<Dropout>)) {
    on_every_machine(|machine| {
        for (shape, dropped) in SHAPES.into_iter().flat_map(|shape| DROPOUTS.map(|d| (shape, d))) {
            test(machine, shape, (DType::F32, F32), dropped);
            test(machine, shape, (DType::Bf16, TOLERANCE_BF16), dropped);
        }
    });
}

#[test]
fn a_low_rank_update_forward_and_backward() {
    let engine = Engine::cpu(Some(1)).unwrap();
    every_case(|machine, [n, i, r, o], (dtype, tolerance), dropped| {
        let (x, dy) = (random_of(dtype, 1, n, i), random_of(dtype, 4, n, o));
        let (a, b) = (random(2, r, i), random(3, o, r));
        let [pa, pb] = [&a, &b].map(|w| packed(&engine, w));
        let (wa, wb) = (Weight::new(&a, Some(&pa)), Weight::new(&b, Some(&pb)));
        let w = LowRank { a: wa, b: wb, scale: SCALE, dropout: dropped };
        let (mut y, mut dx) = (random_of(dtype, 5, n, o), random_of(dtype, 6, n, i));
        let (mut da, mut db) = (random(7, r, i), random(8, o, r));
        let [hy, hdx, hda, hdb, hdy] = [&y, &dx, &da, &db, &dy].map(|array| machine.array(array));
        engine.low_rank(&x, w, &mut y).unwrap();
        let grads = LowRankGrads { dy: &dy, x: &x, w, dx: &mut dx, da: &mut da, db: &mut db };
        engine.low_rank_backward(grads).unwrap();

        let layer = Layer::new(machine, &x, [&b, &a, &b], dropped);
        layer.low_rank(&hy);
        layer.low_rank_backward(&hdy, &hdx, [&hda, &hdb]);
        for (what, got, want) in [("y", &hy, &y), ("dx", &hdx, &dx), ("da", &hda, &da), ("db", &hdb, &db)] {
            assert_close(what, machine, got, &want.to_f32_vec(), tolerance);
        }
    });
}

#[test]
fn dora_forward_and_backward() {
    let engine = Engine::cpu(Some(1)).unwrap();
    every_case(|machine, [n, i, r, o], (dtype, tolerance), dropped| {
        let (x, dy) = (random_of(dtype, 1, n, i), random_of(dtype, 4, n, o));
        let (w, a, b) = (random(9, o, i), random(2, r, i), random(3, o, r));
        let (bias, mut magnitude, mut norm) = (random(10, 1, o), random(11, 1, o), Array::zeros(1, o));
        engine.updated_row_norms(&w, (&a, &b, SCALE), &mut norm).unwrap();
        for (m, norm) in magnitude.as_mut_slice().iter_mut().zip(norm.as_slice()) {
            *m = norm * (1.0 + 0.3 * *m);
        }
        let [pw, pa, pb] = [&w, &a, &b].map(|w| packed(&engine, w));
        let (ww, wa, wb) =
            (Weight::new(&w, Some(&pw)), Weight::new(&a, Some(&pa)), Weight::new(&b, Some(&pb)));
        let update = LowRank { a: wa, b: wb, scale: SCALE, dropout: dropped };
        let lengths = RowLengths { magnitude: &magnitude, norm: &norm };
        let dora = Dora { w: ww, bias: Some(&bias), update, lengths };
        let (mut y, mut dx) = (zeros_of(dtype, n, o), zeros_of(dtype, n, i));
        let (mut da, mut db, mut dm) = (random(7, r, i), random(8, o, r), random(12, 1, o));
        let [hda, hdb, hdm] = [&da, &db, &dm].map(|array| machine.array(array));
        engine.dora(&x, dora, &mut y).unwrap();
        engine
            .dora_backward(DoraGrads {
                dy: &dy,
                x: &x,
                w: dora,
                dx: (&mut dx, Accumulate::Overwrite),
                da: &mut da,
                db: &mut db,
                dmagnitude: &mut dm,
            })
            .unwrap();

        let [hy, hdx, hdy] = [&zeros_of(dtype, n, o), &zeros_of(dtype, n, i), &dy].map(|a| machine.array(a));
        let [hbias, hm, hnorm] = [&bias, &magnitude, &norm].map(|array| machine.array(array));
        let factors = machine.room(Number::F32, 1, o);
        length_factors(machine.on(), hm.view(), hnorm.view(), factors.view()).unwrap();
        let layer = Layer::new(machine, &x, [&w, &a, &b], dropped);
        layer.dora(&factors, &hbias, &hy);
        layer.dora_backward(&hdy, [&hnorm, &factors, &hdm], &hdx, [&hda, &hdb]);
        for (what, got, want) in
            [("y", &hy, &y), ("dx", &hdx, &dx), ("da", &hda, &da), ("db", &hdb, &db), ("dm", &hdm, &dm)]
        {
            assert_close(what, machine, got, &want.to_f32_vec(), tolerance);
        }
    });
}

#[test]
fn lengths_of_updated_rows() {
    let engine = Engine::cpu(Some(1)).unwrap();
    on_every_machine(|machine| {
        for [o, i, r] in [[1, 1, 1], [7, 300, 3], [18, 33, 20]] {
            let (w, a, b) = (random(1, o, i), random(2, r, i), random(3, o, r));
            for dtype in [DType::F32, DType::Bf16] {
                let seen = w.to_dtype(dtype).unwrap();
                let mut want = Array::zeros(1, o);
                let wide = seen.to_dtype(DType::F32).unwrap();
                engine.updated_row_norms(&wide, (&a, &b, SCALE), &mut want).unwrap();
                let [hw, ha, hb] = [&seen, &a, &b].map(|array| machine.array(array));
                let norm = machine.room(Number::F32, 1, o);
                // Some rows at a time.
                for (first, rows) in [(0, o / 2), (o / 2, o - o / 2)] {
                    let part = |x, cols| rows_of(x, first, rows, cols);
                    let update = Update { a: ha.view(), b: part(&hb, r), scale: SCALE };
                    row_norms(machine.on(), part(&hw, i), update, part(&norm, 1)).unwrap();
                }
                assert_close("norm", machine, &norm, want.as_slice(), F32);
            }
        }
    });
}

/// An adapted head's logits, `w x + (f - 1) w seen + f u`, and the gradient of its lengths from both parts.
#[test]
fn logits_of_an_adapted_head_and_the_gradient_of_its_lengths() {
    on_every_machine(|machine| {
        let (n, cols) = (83, 290);
        let [logits, straight, turned, dy] = [1, 2, 3, 4].map(|seed| random(seed, n, cols));
        let (factors, mut norm, dm) = (random(5, 1, cols), random(6, 1, cols), random(7, 1, cols));
        norm.as_mut_slice().iter_mut().for_each(|norm| *norm = 1.0 + norm.abs());
        norm.as_mut_slice()[3] = 0.0;
        let at = |x: &Array, i: usize| f64::from(x.as_slice()[i]);
        let want: Vec<f32> = (0..n * cols)
            .map(|i| {
                let factor = at(&factors, i % cols);
                (at(&logits, i) + (factor - 1.0) * at(&straight, i) + factor * at(&turned, i)) as f32
            })
            .collect();
        let gradient = |col: usize| {
            let of = |i| (at(&straight, i) + at(&turned, i)) * at(&dy, i);
            let sum: f64 = (0..n).map(|row| of(row * cols + col)).sum();
            at(&dm, col) + if norm.as_slice()[col] == 0.0 { 0.0 } else { sum / at(&norm, col) }
        };
        let gradients: Vec<f32> = (0..cols).map(|col| gradient(col) as f32).collect();
        let [hl, hs, ht, hdy, hf, hn, hdm] =
            [&logits, &straight, &turned, &dy, &factors, &norm, &dm].map(|array| machine.array(array));
        let on = machine.on();
        add_scaled_columns(on, hs.view(), (hf.view(), 1.0), hl.view(), true).unwrap();
        add_scaled_columns(on, ht.view(), (hf.view(), 0.0), hl.view(), true).unwrap();
        assert_close("logits", machine, &hl, &want, F32);
        let partial = machine.room(Number::F64, 1, partial_sums(n, cols));
        let (x, lengths) = ((hs.view(), Some(ht.view())), [hn.view(), hdm.view()]);
        add_length_gradient(on, x, hdy.view(), lengths, partial.view()).unwrap();
        assert_close("dmagnitude", machine, &hdm, &gradients, F32);
        assert!(add_length_gradient(on, x, hdy.view(), [hn.view(), hl.view()], partial.view()).is_err());
        assert!(hl.view().part(1, n, cols).is_err() && hl.view().part(usize::MAX, 1, 1).is_err());
    });
}
