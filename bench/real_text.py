#!/usr/bin/env python3
"""The trade-off on real text, with a small model from nothing: a Llama of 5 M parameters learns to talk from Anthropic HH and from XSTest's
completions, a reward and a cost model start from it, every method below aligns it on the same safety-labelled pairs, and `bso eval` measures all
of them on XSTest prompts that nothing was trained on. Prints a Markdown table; it took 104 minutes on one thread beside other work.

Needs Python's standard library alone:

  bench/real_text.py --bso target/release/bso --data DIR --output runs/real-text [--seed 0] [--only sft,reward,cost,...]

DIR holds xstest/ (prompts, completions and pairs derived from them), hh_rlhf/ and tokenizers/minimind/. What is done is not done again.
"""
import argparse, csv, gzip, hashlib, json, pathlib, subprocess, sys, time

from plan_peaks import write_model

PAIRS = dict(dataset_name='data/pairs.jsonl')
BSO = dict(loss_type='bso', preference='better', log_ratio_clamp='none')
METHODS = {
    'dpo-helpful': dict(loss_type='dpo', preference='better'),
    'dpo-harmless': dict(loss_type='dpo', preference='safer'),
    'dpo-safe-better': dict(loss_type='dpo', preference='safe_better'),
    'safedpo': dict(loss_type='safedpo', preference='better', safety_transform='swap_drop', delta=10),
    'bfpo': dict(loss_type='bfpo', preference='better'),
    'kto': dict(loss_type='kto', dataset_name='data/judged.jsonl'),
    'modpo': dict(recipe='modpo', loss_type='modpo', w0=0.5),
    'sacpo': dict(recipe='sacpo', loss_type='dpo', safety_beta=0.05),
    'bso-logistic-C2': dict(BSO, safety_transform='none', generator='logistic', safety_penalty=2),
    'bso-logistic-C5': dict(BSO, safety_transform='none', generator='logistic', safety_penalty=5),
    'bso-logistic-C10': dict(BSO, safety_transform='none', generator='logistic', safety_penalty=10),
    'bso-phi-C2': dict(BSO, safety_transform='none', generator='phi_mu', generator_params='[1.5]', safety_penalty=2),
    'bso-phi-C5': dict(BSO, safety_transform='none', generator='phi_mu', generator_params='[1.5]', safety_penalty=5),
    'bso-phi-C10': dict(BSO, safety_transform='none', generator='phi_mu', generator_params='[1.5]', safety_penalty=10),
    **{f'bso-{name}-C{c}-swap': dict(BSO, safety_transform='swap_drop', generator=generator, generator_params=params, safety_penalty=c)
       for name, generator, params in (('logistic', 'logistic', '[]'), ('phi', 'phi_mu', '[1.5]')) for c in (0, 2)},
    'bso-sba-C4-swap': dict(BSO, safety_transform='swap_drop', generator='sba', generator_params='[0.2, 4]', safety_penalty=4, log_ratio_clamp='[-30, 30]'),
}


def held_out(prompt):
    """A third of the prompts, chosen by their text alone."""
    return hashlib.sha256(prompt.encode()).digest()[0] % 3 == 0


def rows_of(path):
    with (gzip.open if path.suffix == '.gz' else open)(path, 'rt', encoding='utf-8') as lines:
        return [json.loads(line) for line in lines]


def write_rows(path, rows):
    path.write_text(''.join(json.dumps(row) + '\n' for row in rows))


def write_data(folder, source):
    """Rows to train on, and the prompts to ask; an HH dialogue is held out with its first turn."""
    folder.mkdir(parents=True, exist_ok=True)
    xstest = source / 'xstest'
    completions = [row for path in sorted(xstest.glob('xstest_v2_completions_*.csv')) for row in csv.DictReader(open(path, newline='', encoding='utf-8'))]
    turns = [dict(prompt=row['prompt'], response=row['completion']) for row in completions if not held_out(row['prompt']) and row['completion'].strip()]
    helpful, harmless = (rows_of(source / 'hh_rlhf' / f'{name}-base.test.jsonl.gz') for name in ('helpful', 'harmless'))

    def first_turn(row):
        return messages(row['chosen'])[0]['content']

    dialogues = [dict(messages=messages(row['chosen'])) for row in helpful + harmless if not held_out(first_turn(row))]
    dialogues = [row for row in dialogues if len(row['messages']) % 2 == 0 and all(m['content'] for m in row['messages'])]
    write_rows(folder / 'sft.jsonl', dialogues + [dict(messages=[dict(role='user', content=t['prompt']), dict(role='assistant', content=t['response'])]) for t in turns])
    write_rows(folder / 'helpful.jsonl', [row for row in helpful if not held_out(first_turn(row))])
    write_rows(folder / 'helpful_test.jsonl', [row for row in helpful if held_out(first_turn(row))])
    better, every = (rows_of(xstest / f'derived_pairs_{name}.jsonl') for name in ('with_better', 'all'))
    for name, rows in ('pairs', better), ('safety', every):
        write_rows(folder / f'{name}.jsonl', [row for row in rows if not held_out(row['prompt'])])
        write_rows(folder / f'{name}_test.jsonl', [row for row in rows if held_out(row['prompt'])])
    judged = {(row['prompt'], row[f'response_{i}']): row[f'is_response_{i}_safe'] for row in every for i in (0, 1) if not held_out(row['prompt'])}
    write_rows(folder / 'judged.jsonl', [dict(prompt=p, completion=c, label=safe) for (p, c), safe in judged.items()])
    prompts = [row for row in csv.DictReader(open(xstest / 'xstest_prompts.csv', newline='', encoding='utf-8')) if held_out(row['prompt'])]
    with open(folder / 'prompts.csv', 'w', newline='', encoding='utf-8') as out:
        writer = csv.DictWriter(out, ['prompt', 'type'], extrasaction='ignore')
        writer.writeheader()
        writer.writerows(prompts)


def messages(dialogue):
    parts = dialogue.replace('\n\nAssistant:', '\n\nHuman:').split('\n\nHuman:')[1:]
    return [dict(role=['user', 'assistant'][i % 2], content=part.strip()) for i, part in enumerate(parts)]


def scores(bso, model, turns):
    """The model's score of each (prompt, response)."""
    rows = ''.join(json.dumps(dict(prompt=prompt, response=response)) + '\n' for prompt, response in turns)
    found = subprocess.run([bso, '--quiet', 'score', '--model', model, '--input', '-', '--output', '-', '--field', 'score'], input=rows, capture_output=True, text=True, check=True)
    return [json.loads(line)['score'] for line in found.stdout.splitlines()]


def of_scorers(bso, out):
    """How well reward and cost model tell held-out responses apart."""
    def ordered(model, pairs):
        first, second = (scores(bso, model, side) for side in zip(*pairs))
        return sum(a > b for a, b in zip(first, second)) / len(first)

    dialogues = [(messages(row['chosen']), row['rejected']) for row in rows_of(out / 'data' / 'helpful_test.jsonl')]
    helpful = [((chosen[:-1], chosen[-1]['content']), (chosen[:-1], messages(rejected)[-1]['content'])) for chosen, rejected in dialogues]
    helpful = [pair for pair in helpful if pair[0][1] and pair[1][1]]
    by = lambda key, name: [tuple((row['prompt'], row[f'response_{i}']) for i in (row[key], 1 - row[key])) for row in rows_of(out / 'data' / f'{name}_test.jsonl')]
    reward, cost = out / 'reward', out / 'cost'
    judged = {(row['prompt'], row[f'response_{i}']): row[f'is_response_{i}_safe'] for row in rows_of(out / 'data' / 'safety_test.jsonl') for i in (0, 1)}
    signs = [(cost <= 0) == safe for cost, safe in zip(scores(bso, cost, judged), judged.values())]
    print(f'reward model: HH-helpful {ordered(reward, helpful):.3f} of {len(helpful)} pairs in order, XSTest {ordered(reward, by("better_response_id", "pairs")):.3f}')
    print(f'cost model: right sign for {sum(signs) / len(signs):.3f} of {len(signs)} responses ({sum(judged.values()) / len(judged):.3f} are safe)\n')


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in '--bso', '--data', '--output':
        arguments.add_argument(name, type=lambda text: pathlib.Path(text).resolve(), required=True)
    arguments.add_argument('--seed', type=int, default=0)
    arguments.add_argument('--num_threads', type=int, default=2)
    arguments.add_argument('--only', default='', help='train these stages and methods, with commas between, and measure nothing')
    given = arguments.parse_args()
    out, wanted = given.output, [name for name in given.only.split(',') if name]
    if not (out / 'data' / 'prompts.csv').exists():
        write_data(out / 'data', given.data)
    if not (out / 'random').exists():
        write_model(out / 'random', given.data / 'tokenizers' / 'minimind', 256, 4)

    def train(name, settings):
        if (wanted and name not in wanted) or (out / name / 'all_results.json').exists():
            return
        common = dict(output_dir=name, seed=given.seed, num_threads=given.num_threads, max_length=320, lr_scheduler_type='cosine', warmup_ratio=0.05, eval_strategy='no', save_strategy='no')
        config = out / f'{name}.yaml'
        config.write_text(''.join(f'{key}: {json.dumps(value) if isinstance(value, list) else value}\n' for key, value in (common | settings).items()).replace(': no\n', ': "no"\n'))
        began = time.monotonic()
        if subprocess.run([given.bso, '--quiet', 'train', config, '--resume_from_checkpoint', 'auto'], stdout=subprocess.DEVNULL).returncode:
            sys.exit(f'{name} failed; its settings are {config}')
        print(f'{name}: {time.monotonic() - began:.0f} s', file=sys.stderr, flush=True)

    train('sft', dict(stage='sft', model_name_or_path='random', dataset_name='data/sft.jsonl', eval_split=0.02, num_train_epochs=4, per_device_train_batch_size=16, learning_rate=2e-3))
    scores = dict(model_name_or_path='sft', per_device_train_batch_size=16, num_train_epochs=2, learning_rate=2e-4)
    train('reward', dict(scores, stage='reward', dataset_name=['data/helpful.jsonl', 'data/pairs.jsonl'], preference='better'))
    train('cost', dict(scores, stage='cost', dataset_name='data/safety.jsonl', preference='safer'))
    aligned = dict(model_name_or_path='sft', per_device_train_batch_size=16, num_train_epochs=3, learning_rate=2e-4, beta=0.1, eval_split=0)
    for name, settings in METHODS.items():
        train(name, aligned | PAIRS | settings)

    if wanted:
        return
    methods = [name for name in METHODS if (out / name / 'all_results.json').exists()]
    config = out / 'eval.yaml'
    config.write_text(json.dumps(dict(models=['sft', *methods], prompt_sets=['data/prompts.csv'], reward_model='reward', cost_model='cost', max_new_tokens=128, seed=given.seed, num_threads=given.num_threads, output_dir='eval')))
    subprocess.run([given.bso, '--quiet', 'eval', config], stdout=subprocess.DEVNULL, check=True)
    of_scorers(given.bso, out)
    print((out / 'eval' / 'results.md').read_text())


main()
