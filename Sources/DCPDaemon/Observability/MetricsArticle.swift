internal import DCPObservability

/// The article Metrics.md: how the endpoint is used, and the table of metrics.
package enum MetricsArticle {
    package static var text: String { MetricsReference.article(introduction: introduction) }

    private static let introduction = """
        # Metrics and health

        What every daemon tells over HTTP: metrics for Prometheus, whether it is healthy, whether it is ready.

        <!-- Made by `make reference` from Metric+Table.swift and MetricsArticle.swift; a test compares them. -->

        ## The endpoint

        Each daemon answers `GET /metrics`, `/healthz` and `/readyz` at `rank.http` or `coordinator.http`
        (<doc:Configuration>). By default that is a Unix socket beside the daemon's own, which works for all ranks of a host
        and in a unit without network:

        ```sh
        curl --unix-socket /run/dcp/rank-0.http http://dcp/metrics
        ```

        Nobody is asked who he is, so an address that is not loopback is refused unless `insecure-http-any-address` says
        otherwise. The endpoint has a thread of its own. At most 32 connections are served, with at most 8 KiB of header; one
        that sends no whole request for 30 s is closed, and any after five minutes. A daemon whose event loop does not turn is
        not waited for longer than 5 s. While a rank drains the endpoint goes on answering.

        ## Scraping it

        Prometheus scrapes TCP, not Unix sockets. Either have the daemons listen on loopback, in `/etc/dcp/dcp.yaml`:

        ```yaml
        coordinator:
          http: 127.0.0.1:9469
        rank:
          http: 127.0.0.1:947{rank}
        ```

        or keep the sockets, and put something in front of them that may open them:
        `socat TCP-LISTEN:9470,bind=127.0.0.1,fork,reuseaddr UNIX-CONNECT:/run/dcp/rank-0.http` as the user `dcp`. The units
        let nobody but this host connect (`IPAddressDeny=`); for a Prometheus elsewhere a proxy with TLS and authentication
        belongs in front.

        ```yaml
        rule_files: [/usr/share/dcp/prometheus/dcp-rules.yaml]
        scrape_configs:
          - job_name: dcp
            static_configs:
              - targets: ["127.0.0.1:9469", "127.0.0.1:9470", "127.0.0.1:9471"]
        ```

        A rank's metrics have the label `rank`. The rules, with what to do about each alert, and a dashboard for Grafana
        are in `observability/`, and in packages below `/usr/share/dcp`. Both expect the job's name to be `dcp`.

        ## Health and readiness

        Both answer 200 or 503 with one line of JSON: `ok`, `reason`, `ready`, `release`, `epoch`, `rank`, and of canaries
        how often they come and how old the last one is.

        `/readyz` is good while requests are served: a rank has joined the epoch and does not drain; a coordinator has all its
        ranks.

        `/healthz` is good only if a *canary* went through within three intervals. Every `canary-interval` the coordinator
        sends a small prefill and decode step through all ranks, over its own endpoint as any client would, and compares the
        answer with its own computation. Its verdict covers the whole cluster. A rank's covers what it takes part in: that
        its share of a canary was computed, exchanged and answered. Ranks are not told how often canaries come; where the
        coordinator's `canary-interval` is changed theirs has to be. With `off` no canary comes, and `/healthz` says no more
        than `/readyz`, and says so.

        A canary goes on in one sequence, `.canary` of the model `.canary`, whose tokens are never committed and taken back at
        the end: apart from the very first, which opens it, it writes to no disk. A full store, or one that writes no more,
        takes its steps, since they stay in RAM: whether data can be written is `dcp_store_condition`, which has an alert, and
        which no restart of a daemon would help. Only where the store was full before the first canary does that one fail.
        The sequence is never evicted, and the order in which others are is not changed by it. Canaries count as steps.

        ## Aggregating

        Counters start at zero with the process (`process_start_time_seconds`). Buckets of histograms are fixed: from 100 us
        to 60 s, about two and a half times from one to the next, so a quantile is right within that. A duration runs from
        the moment the daemon's event loop takes the request up: what waits in a socket before is not in it.

        """
}
