//! Embeddings and picked rows, and their gradients.

use bso_cuda::Number;
use bso_cuda::operation::{RowGroups, add_gathered_rows, add_row_groups, gather_rows};
use bso_engine::{DType, Engine};

use crate::machine::{assert_close, on_every_machine, random, random_of, zeros_of};

#[test]
fn embeddings_and_their_gradients_are_the_cpus_to_the_bit() {
    let engine = Engine::cpu(Some(1)).unwrap();
    on_every_machine(|machine| {
        for (vocab, d, n) in [(6, 3, 5), (40, 300, 71)] {
            let tokens: Vec<u32> = (0..n).map(|i| (i * i + 3) % vocab).collect();
            let (vocab, n) = (vocab as usize, n as usize);
            let index = machine.indices(&tokens);
            for dtype in [DType::F32, DType::Bf16] {
                let table = random_of(dtype, 1, vocab, d);
                let mut want = zeros_of(dtype, n, d);
                let rows: Vec<usize> = tokens.iter().map(|token| *token as usize).collect();
                engine.gather_rows(&table, &rows, &mut want).unwrap();
                let (table, out) = (machine.array(&table), machine.array(&zeros_of(dtype, n, d)));
                gather_rows(machine.on(), table.view(), index.view(), out.view()).unwrap();
                assert_close("gathered", machine, &out, &want.to_f32_vec(), 0.0);
            }
            let (table, dout, mut dtable) = (random(1, vocab, d), random(2, n, d), random(3, vocab, d));
            let mut want = dout.clone();
            engine.add_embedding(&tokens, &table, &mut want).unwrap();
            let (table, out) = (machine.array(&table), machine.array(&dout));
            add_gathered_rows(machine.on(), table.view(), index.view(), out.view()).unwrap();
            assert_close("added", machine, &out, want.as_slice(), 0.0);

            let (rows, sum) = (machine.array(&dout), machine.array(&dtable));
            let groups = RowGroups::of(&tokens);
            let lists = [&groups.targets, &groups.starts, &groups.order].map(|list| machine.indices(list));
            let views = lists.each_ref().map(|list| list.view());
            add_row_groups(machine.on(), rows.view(), views, sum.view()).unwrap();
            engine.embedding_backward(&tokens, &dout, &mut dtable).unwrap();
            assert_close("dtable", machine, &sum, dtable.as_slice(), 0.0);
        }
        let (x, out) = (machine.zeros(Number::F32, 4, 2), machine.zeros(Number::F32, 3, 2));
        assert!(gather_rows(machine.on(), x.view(), machine.indices(&[0, 1]).view(), out.view()).is_err());
    });
}
