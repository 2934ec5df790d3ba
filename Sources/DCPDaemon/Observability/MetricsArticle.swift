// SPDX-License-Identifier: Apache-2.0

internal import DCPObservability

/// The article Metrics.md: how the endpoint is used, and the table of metrics.
package enum MetricsArticle {
    package static var text: String { MetricsReference.article(introduction: introduction) }

    private static let introduction = """
        # Metrics and health

        The HTTP endpoint of each daemon: metrics for Prometheus, health and readiness.

        <!-- Made by `make reference` from Metric+Table.swift and MetricsArticle.swift; a test compares them. -->

        ## The endpoint

        Each daemon answers `GET /metrics`, `/healthz` and `/readyz` at `rank.http` or `coordinator.http`
        ([Configuration](Configuration.md)). The default is a Unix socket beside the daemon's own socket, which works for all ranks of
        a host and in a unit without network access:

        ```sh
        curl --unix-socket /run/dcp/rank-0.http http://dcp/metrics
        ```

        Requests are not authenticated, so the daemon refuses an address that is not loopback unless
        `insecure-http-any-address` is set. The endpoint has its own thread. It serves at most 32 connections, each with
        at most 8 KiB of header. It closes a connection that sends no complete request for 30 s, and any connection
        after five minutes. If the daemon's event loop is blocked, a request fails after 5 s. While a rank drains, the
        endpoint keeps answering.

        ## Scraping it

        Prometheus scrapes TCP, not Unix sockets. Either have the daemons listen on loopback, in `/etc/dcp/dcp.yaml`:

        ```yaml
        coordinator:
          http: 127.0.0.1:9469
        rank:
          http: 127.0.0.1:947{rank}
        ```

        or keep the sockets, and run a proxy that may open them:
        `socat TCP-LISTEN:9470,bind=127.0.0.1,fork,reuseaddr UNIX-CONNECT:/run/dcp/rank-0.http` as the user `dcp`. The
        units accept connections only from this host (`IPAddressDeny=`); for a Prometheus on another host, put a proxy
        with TLS and authentication in front.

        ```yaml
        rule_files: [/usr/share/dcp/prometheus/dcp-rules.yaml]
        scrape_configs:
          - job_name: dcp
            static_configs:
              - targets: ["127.0.0.1:9469", "127.0.0.1:9470", "127.0.0.1:9471"]
        ```

        A rank's metrics have the label `rank`. The alert rules, with a remedy for each alert, and a Grafana dashboard
        are in `observability/`; packages install them below `/usr/share/dcp`. Both expect the job name `dcp`.

        ## Health and readiness

        Both answer 200 or 503 with one line of JSON: `ok`, `reason`, `ready`, `release`, `epoch`, `rank`, and the
        interval of canaries with the age of the last one.

        `/readyz` answers 200 while the daemon serves requests: a rank has joined the epoch and is not draining; a
        coordinator has all its ranks.

        `/healthz` answers 200 only if a *canary* succeeded within three intervals. Every `canary-interval` the
        coordinator sends a small prefill and decode step through all ranks, over its own endpoint as any client would,
        and compares the answer with its own computation. Its verdict covers the whole cluster. A rank's verdict covers
        its own part: that its share of a canary was computed, exchanged and answered. Ranks do not learn the interval
        from the coordinator: change `canary-interval` on all daemons together. With `off` there are no canaries, and
        `/healthz` reports the same as `/readyz` and says so. A daemon that has just started does the same until its
        first canary succeeds, for at most three intervals, unless a canary fails in a complete cluster.

        All canaries use one sequence, `.canary` of the model `.canary`. Its tokens are never committed and are rolled
        back at the end: only the first canary, which opens the sequence, writes to the disk. A store that is full or no
        longer writes still accepts a canary's steps, because they stay in RAM. Whether data can be written is in
        `dcp_store_condition`, which has an alert; restarting a daemon does not help there. Only if the store was full
        before the first canary does that canary fail. The sequence is never evicted, and does not affect the order in
        which others are. Canaries count as steps.

        ## Aggregating

        Counters start at zero with the process (`process_start_time_seconds`). `increase` does not see what a process
        counts before its first scrape; the alert rules show how to include it. Histogram buckets are fixed, from 100 us
        to 60 s, each about two and a half times the one before, so a quantile is accurate to that factor. A duration
        starts when the daemon's event loop reads the request; it does not include time in the socket before.

        """
}
