//! Times every micro-bench: `cargo bench -p gannet-bench --bench micro -- [NAME]`.

mod bodies;

use criterion::{Criterion, criterion_group, criterion_main};

fn time_all(criterion: &mut Criterion) {
    for body in bodies::all() {
        criterion.bench_function(body.name, |bencher| {
            let mut operation = (body.prepare)();
            bencher.iter(&mut operation);
        });
    }
}

criterion_group!(micro, time_all);
criterion_main!(micro);
