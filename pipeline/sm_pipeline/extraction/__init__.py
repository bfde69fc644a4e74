"""From a manifest to a store: plan, decode, encode, write; targets, retries, repairs and forecasts."""
