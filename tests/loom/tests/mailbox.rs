//! The mailbox in every order in which its threads can run: no value is lost, none changes its place, and whoever
//! sleeps is woken.
#![cfg(loom)]

use gannet_loom::mailbox::{Mailbox, mailbox};
use loom::model::Builder;
use loom::sync::{Arc, Notify};
use loom::thread;

/// How often a thread is stopped in the midst, at most: more finds nothing new in so little code.
const PREEMPTIONS: usize = 3;

fn model(run: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(PREEMPTIONS);
    builder.check(run);
}

/// Sleeps until it is woken and drains, until `count` values are here.
fn owner(mailbox: &Mailbox<u8>, bell: &Notify, count: usize) -> Vec<u8> {
    let (mut all, mut batch) = (Vec::new(), Vec::new());
    while all.len() < count {
        // Without a wake-up this waits for ever, which the model reports.
        bell.wait();
        mailbox.drain(&mut batch);
        all.append(&mut batch);
    }
    all
}

#[test]
fn each_value_wakes_its_owner_and_keeps_its_place() {
    model(|| {
        let bell = Arc::new(Notify::new());
        let rings = bell.clone();
        let (sender, mailbox) = mailbox(8, move || rings.notify());
        let other = sender.clone();
        let one = thread::spawn(move || {
            sender.send(1);
            sender.send(2);
        });
        let two = thread::spawn(move || other.send(3));
        let all = owner(&mailbox, &bell, 3);
        let place = |value: u8| all.iter().position(|other| *other == value);
        assert!(place(1) < place(2) && place(3).is_some(), "{all:?}");
        one.join().expect("a sender");
        two.join().expect("a sender");
        assert!(mailbox.is_empty());
    });
}

#[test]
fn an_offer_is_taken_or_given_back_and_what_is_kept_counts() {
    model(|| {
        let bell = Arc::new(Notify::new());
        let rings = bell.clone();
        let (sender, mailbox) = mailbox(2, move || rings.notify());
        mailbox.keep(1);
        let other = sender.clone();
        let one = thread::spawn(move || sender.offer(1).is_ok());
        let two = thread::spawn(move || other.offer(2).is_ok());
        let all = owner(&mailbox, &bell, 1);
        let taken = [one, two].map(|thread| thread.join().expect("a sender"));
        let mut rest = Vec::new();
        mailbox.drain(&mut rest);
        let got = all.len() + rest.len();
        assert_eq!(got, taken.iter().filter(|taken| **taken).count(), "what was taken is here");
        assert!(taken.contains(&true));
    });
}

#[test]
fn what_is_left_is_found_by_who_looks_once_more_and_wakes_who_does_not() {
    model(|| {
        let bell = Arc::new(Notify::new());
        let rings = bell.clone();
        let (sender, mailbox) = mailbox(8, move || rings.notify());
        let other = sender.clone();
        let one = thread::spawn(move || sender.leave(1));
        let two = thread::spawn(move || other.leave(2));
        let (mut all, mut batch) = (Vec::new(), Vec::new());
        while all.len() < 2 {
            mailbox.expect();
            // As a reactor: it does not sleep while anything is here.
            if mailbox.is_empty() {
                bell.wait();
            }
            mailbox.collect(&mut batch);
            all.append(&mut batch);
        }
        all.sort_unstable();
        assert_eq!(all, [1, 2]);
        one.join().expect("a sender");
        two.join().expect("a sender");
    });
}
