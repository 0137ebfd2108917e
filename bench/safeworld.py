#!/usr/bin/env python3
"""BSO's settings on SafeWorld over penalty, generator, transform, clamp, wrong labels and numbers of pairs: what docs/experiments.md tables. Runs
`bso demo --methods` with five seeds for each part and prints a line a setting: reward / safe % / over-refusal % / distance (TV) to the optimum.

Needs Python's standard library alone; about an hour on one core for all parts:

  bench/safeworld.py --bso target/release/bso --output runs/safeworld [--parts grid,tails,noise,pairs] [--seeds 5]
"""
import argparse, json, pathlib, subprocess

GENERATORS = {'logistic': ('logistic', '[]'), 'phi': ('phi_mu', '[1.5]'), 'sba': ('sba', '[0.2, 4]'), 'kliep': ('kliep', '[]'), 'lsif': ('lsif', '[]')}


def bso(name, transform, penalty, clamp=None, tail='clamp'):
    generator, params = GENERATORS[name]
    clamp = clamp or ('[-30, 30]' if name == 'sba' else 'none')
    title = f'{name}-{transform}-C{penalty}'
    if clamp not in ('none', '[-30, 30]'):
        title += '-narrow'
    if tail == 'linear':
        title += '-linear'
    return title, dict(loss_type='bso', preference='better', safety_transform=transform, generator=generator, generator_params=params, safety_penalty=penalty,
                       log_ratio_clamp=clamp, log_ratio_tail=tail)


def dpo(name, preference):
    return name, dict(loss_type='dpo', preference=preference)


TRANSFORMS = 'none', 'swap_drop'
GRID = [bso(g, t, c) for g in ('logistic', 'phi', 'sba') for t in TRANSFORMS for c in (0, 2, 5, 10, 20, 50)]
GRID += [bso(g, 'drop', 10) for g in ('logistic', 'phi', 'sba')] + [bso('lsif', 'none', 2), bso('kliep', 'swap_drop', 10)]
TAILS = [bso(g, t, 10, '[-5, 5]', tail) for g in ('phi', 'sba') for t in TRANSFORMS for tail in ('clamp', 'linear')]
TAILS += [bso('sba', t, c, '[-30, 30]', 'linear') for t in TRANSFORMS for c in (10, 50)]
COMPARED = [dpo('dpo-helpful', 'better'), dpo('dpo-safe-better', 'safe_better'), dpo('dpo-harmless', 'safer'), ('kto', dict(loss_type='kto', dataset_name='data/judged.jsonl'))]
COMPARED += [bso('logistic', 'none', 10), bso('logistic', 'none', 20), bso('phi', 'none', 5), bso('phi', 'none', 10), bso('phi', 'drop', 10)]
COMPARED += [bso(g, 'swap_drop', c) for g in ('logistic', 'phi') for c in (0, 2)] + [bso('logistic', 'swap_drop', 10), bso('sba', 'swap_drop', 10)]
NOISES = {'safety-10': (0.1, 0), 'safety-25': (0.25, 0), 'both-10': (0.1, 0.1), 'both-25': (0.25, 0.25)}
PARTS = {'grid': {'grid': (GRID, [])}, 'tails': {'tails': (TAILS, [])},
         'noise': {name: (COMPARED, ['--safety_noise', str(s), '--preference_noise', str(p)]) for name, (s, p) in NOISES.items()},
         'pairs': {f'{n}-pairs': (COMPARED, ['--pairs', str(n)]) for n in (600, 1500, 24000)}}


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in '--bso', '--output':
        arguments.add_argument(name, type=lambda text: pathlib.Path(text).resolve(), required=True)
    arguments.add_argument('--parts', default=','.join(PARTS))
    arguments.add_argument('--seeds', type=int, default=5)
    arguments.add_argument('--num_threads', type=int, default=1)
    given = arguments.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    for part in given.parts.split(','):
        for name, (methods, more) in PARTS[part].items():
            settings = lambda own: ''.join(f'    {key}: {value}\n' for key, value in own.items())
            listed = given.output / f'{name}.yaml'
            listed.write_text(''.join(f'- name: {title}\n  about: {title}\n  settings: |\n{settings(own)}' for title, own in methods))
            command = [given.bso, 'demo', '--methods', listed, '--seeds', str(given.seeds), '--num_threads', str(given.num_threads), '--json', '--quiet', '--output_dir', given.output / name, *more]
            lines = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
            print(f'\n{name}', flush=True)
            for line in filter(lambda line: line.startswith('{'), lines):
                row = json.loads(line)
                mean = {key: (value or {}).get('mean', float('nan')) for key, value in row['scores'].items()}
                print(f"| {row['name']} | {mean['reward']:.2f} / {100 * mean['safe_rate']:.0f} / {100 * mean['over_refusal']:.0f} / {mean['tv_to_optimum']:.2f} |", flush=True)


main()
