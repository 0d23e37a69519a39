//! The command line on many jobs at once.

use std::time::Duration;

use tidegate_tests::{Process, Router, RouterOptions, Sandbox};

use crate::producer::submit_all;

/// Runs a command to its end; what it printed.
async fn run(sandbox: &Sandbox, router: &Router, args: &[&str], code: i32) -> String {
    let url = router.grpc_url();
    let args = args.iter().copied().chain(["--endpoint", &url]);
    let process = Process::tidegate(sandbox, args.clone(), &[]);
    let got = process.wait_exit(Duration::from_secs(30)).await;
    let said = format!("{}{}", process.stdout(), process.stderr());
    let all: Vec<&str> = args.collect();
    assert_eq!(got, code, "{all:?} said: {said}");
    said
}

#[tokio::test]
async fn jobs_are_found_cancelled_and_deleted_by_filter() {
    let sandbox = Sandbox::new();
    let router = Router::start(&sandbox, "memory:", RouterOptions::default()).await;
    submit_all(&[router.grpc_url()], "email", 450).await;
    let keyed = ["submit", "email", "{}", "--key", "inv-17"];
    run(&sandbox, &router, &keyed, 0).await;

    let by_key = ["job", "list", "--queue", "email", "--key", "inv-17", "-o", "json"];
    assert_eq!(run(&sandbox, &router, &by_key, 0).await.lines().count(), 1);
    let since = [
        "job", "list", "--queue", "email", "--since", "10m", "--limit", "1000", "-o", "json",
    ];
    assert_eq!(run(&sandbox, &router, &since, 0).await.lines().count(), 451);
    let until = ["job", "list", "--queue", "email", "--until", "10m", "-o", "json"];
    assert_eq!(run(&sandbox, &router, &until, 0).await.lines().count(), 0);

    let unsure = run(&sandbox, &router, &["job", "cancel", "--queue", "email"], 2).await;
    assert!(unsure.contains("--yes"), "{unsure}");
    run(&sandbox, &router, &["job", "cancel"], 2).await;
    run(
        &sandbox,
        &router,
        &["job", "list", "--queue", "email", "--state", "lost"],
        2,
    )
    .await;
    run(
        &sandbox,
        &router,
        &["job", "list", "--queue", "email", "--since", "yesterday"],
        2,
    )
    .await;

    let cancel = [
        "job", "cancel", "--queue", "email", "--since", "1h", "--yes", "-o", "json",
    ];
    let said = run(&sandbox, &router, &cancel, 0).await;
    let last: serde_json::Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    assert_eq!(
        (&last["done"], &last["finished"]),
        (&451.into(), &true.into()),
        "{said}"
    );
    assert!(said.lines().count() >= 3, "it tells how far it is: {said}");
    let delete = ["job", "delete", "--queue", "email", "--yes"];
    let said = run(&sandbox, &router, &delete, 0).await;
    assert!(said.contains("finished"), "{said}");
    let all = ["job", "list", "--queue", "email", "-o", "json"];
    assert_eq!(run(&sandbox, &router, &all, 0).await.lines().count(), 0);
}
