{{/* What values must satisfy beyond their schema; each message says what to do. Called by the routers' ConfigMap. */}}
{{- define "warmroute.validate" -}}
{{- $pools := include "warmroute.pools" . | fromJson -}}
{{- $source := .Values.discovery.source -}}
{{- if not (or $pools .Values.discovery.extra .Values.router.config.replicas) -}}
{{- fail "there are no replicas: set model (--set model=Qwen/Qwen3-8B), or pools, or discovery.extra" -}}
{{- end -}}
{{- $models := dict -}}
{{- range $name, $pool := $pools -}}
{{- $key := printf "pools.%s" $name -}}
{{- if and (eq $pool.type "vllm") (not $pool.model) -}}
{{- fail (printf "%s.model is empty: name the model that its replicas serve" $key) -}}
{{- end -}}
{{- $served := default $pool.model $pool.servedModelName -}}
{{- if $served -}}
{{- $names := list $served -}}
{{- range $pool.adapters -}}{{- $names = append $names .name -}}{{- end -}}
{{- range $model := $names -}}
{{- with get $models $model -}}
{{- if not (and .shared $pool.sharedModel) -}}
{{- fail (printf "%s and %s both serve the model %q, and their replicas would be one fleet: merge them into one pool, give one another servedModelName, or set sharedModel in both if that is meant" .key $key $model) -}}
{{- end -}}
{{- end -}}
{{- $_ := set $models $model (dict "key" $key "shared" $pool.sharedModel) -}}
{{- end -}}
{{- end -}}
{{- if eq $pool.type "external" -}}
{{- if and $pool.external.service $pool.external.selector -}}
{{- fail (printf "%s.external has both service and selector: say one" $key) -}}
{{- end -}}
{{- if not (or $pool.external.service $pool.external.selector) -}}
{{- fail (printf "%s.external names no replicas: set service, or selector with the labels of their Services" $key) -}}
{{- end -}}
{{- if eq $source "redis" -}}
{{- fail (printf "%s is external, and discovery.source redis finds only replicas with an agent: use kubernetes or dns, or leave the pool out if its replicas have agents of their own" $key) -}}
{{- end -}}
{{- if eq $source "dns" -}}
{{- if not $pool.external.service -}}
{{- fail (printf "%s.external.selector needs discovery.source kubernetes: dns asks for the name of a Service" $key) -}}
{{- end -}}
{{- if not (regexMatch "^[0-9]+$" (toString $pool.external.port)) -}}
{{- fail (printf "%s.external.port is %q, but discovery.source dns needs a number" $key (toString $pool.external.port)) -}}
{{- end -}}
{{- end -}}
{{- else -}}
{{- if and (eq $source "redis") (not (include "warmroute.hasAgent" (dict "root" $ "pool" $pool))) -}}
{{- fail (printf "%s has no agent, and discovery.source redis finds only replicas with one: set agent.enabled and a redis.mode other than none" $key) -}}
{{- end -}}
{{- if and $pool.apiKey.existingSecret (not $.Values.router.upstreamApiKey.existingSecret) -}}
{{- fail (printf "%s.apiKey is set, but router.upstreamApiKey is not: its replicas would refuse the routers' questions; name the same Secret there" $key) -}}
{{- end -}}
{{- if and (eq $pool.workload "Deployment") (eq $pool.cache.type "persistent") -}}
{{- fail (printf "%s.cache.type persistent makes a volume for each replica, which a Deployment cannot have: use workload StatefulSet, or cache.type existing" $key) -}}
{{- end -}}
{{- if and (eq $pool.cache.type "existing") (not $pool.cache.existingClaim) -}}
{{- fail (printf "%s.cache.existingClaim is empty: name the claim for cache.type existing" $key) -}}
{{- end -}}
{{- if $pool.autoscaling.enabled -}}
{{- if gt (int $pool.autoscaling.minReplicas) (int $pool.autoscaling.maxReplicas) -}}
{{- fail (printf "%s.autoscaling.minReplicas is more than maxReplicas" $key) -}}
{{- end -}}
{{- if and (eq $pool.autoscaling.mode "keda") (not $pool.autoscaling.prometheusAddress) -}}
{{- fail (printf "%s.autoscaling.prometheusAddress is empty: say where Prometheus answers, such as http://prometheus-operated.monitoring:9090" $key) -}}
{{- end -}}
{{- if and (eq $pool.autoscaling.mode "keda") (eq $source "dns") (not $pool.autoscaling.query) -}}
{{- fail (printf "%s.autoscaling.query is empty: with discovery.source dns replicas are known by their addresses, so the chart cannot tell this pool's; write a query, or use kubernetes or redis" $key) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- include "warmroute.validateRouter" . -}}
{{- include "warmroute.validateRedis" . -}}
{{- end -}}

{{- define "warmroute.validateRouter" -}}
{{- range $what := list "router.config" "discovery.extra" -}}
{{- $given := ternary $.Values.router.config $.Values.discovery.extra (eq $what "router.config") -}}
{{- if regexMatch "(redis|rediss|unix)([+][a-z]+)?://[^\"]*(:[^\"]*@|password=)" (toJson $given) -}}
{{- fail (printf "%s has a URL with a password, which would be in a ConfigMap for all to read: give the setting as a variable instead, from a Secret, in router.extraEnv (docs/configuration.md names it)" $what) -}}
{{- end -}}
{{- end -}}
{{- $taken := dict "listen" "service.port and ipFamily" "admin" "ipFamily" "discovery" "pools and discovery" "drain_grace_s" "router.drainSeconds" "workers" "router.workers" "log_level" "router.logLevel" -}}
{{- range $key, $instead := $taken -}}
{{- if hasKey $.Values.router.config $key -}}
{{- fail (printf "router.config.%s is made by the chart: set %s instead" $key $instead) -}}
{{- end -}}
{{- end -}}
{{- range $section, $keys := dict "registry" (dict "url" "redis" "namespace" "redis.namespace") "tls" (dict "cert_file" "router.tls" "key_file" "router.tls" "upstream_ca_file" "router.upstreamCASecret") "fingerprint" (dict "secret" "secrets.existingSecret") "health" (dict "api_key" "router.upstreamApiKey") "admin_auth" (dict "operator_tokens" "router.adminAuth" "read_tokens" "router.adminAuth") -}}
{{- with get $.Values.router.config $section -}}
{{- if not (kindIs "map" .) -}}
{{- fail (printf "router.config.%s must be a section with keys of its own" $section) -}}
{{- end -}}
{{- range $key, $instead := $keys -}}
{{- if hasKey (get $.Values.router.config $section) $key -}}
{{- fail (printf "router.config.%s.%s is made by the chart, since secrets and files do not belong into a ConfigMap: set %s instead" $section $key $instead) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- with .Values.router -}}
{{- if and .keys.existingSecret (hasKey .config "keys") -}}
{{- if or (not (kindIs "map" .config.keys)) (hasKey .config.keys "url") -}}
{{- fail "router.config.keys and router.keys.existingSecret both say where keys are kept: choose one" -}}
{{- end -}}
{{- end -}}
{{- $keys := get $.Values.router.config "keys" | default dict -}}
{{- $place := $keys -}}
{{- if kindIs "map" $keys -}}
{{- $place = get $keys "url" -}}
{{- if hasKey $keys "upstream_key" -}}
{{- fail "router.config.keys.upstream_key would be in a ConfigMap for all to read: set the variable WARMROUTE_KEYS__UPSTREAM_KEY instead, from a Secret, in router.extraEnv" -}}
{{- end -}}
{{- end -}}
{{- if and (eq (toString $place) "redis") (eq $.Values.redis.mode "builtin") -}}
{{- fail "router.config.keys is redis, but the chart's own Redis forgets everything when its pod is replaced, and then no client would be let in: set router.keys.existingSecret, or redis.mode external and a Redis that keeps its data" -}}
{{- end -}}
{{- if and .autoscaling.enabled .keda.enabled -}}
{{- fail "router.autoscaling and router.keda are both enabled: two scalers would fight over one Deployment, choose one" -}}
{{- end -}}
{{- if and .autoscaling.enabled (gt (int .autoscaling.minReplicas) (int .autoscaling.maxReplicas)) -}}
{{- fail "router.autoscaling.minReplicas is more than maxReplicas" -}}
{{- end -}}
{{- if and .autoscaling.enabled (not (or .autoscaling.targetCPUUtilizationPercentage .autoscaling.targetInFlight .autoscaling.metrics)) -}}
{{- fail "router.autoscaling has nothing to scale by: set targetCPUUtilizationPercentage, targetInFlight or metrics" -}}
{{- end -}}
{{- if and .keda.enabled (not .keda.prometheusAddress) -}}
{{- fail "router.keda.prometheusAddress is empty: say where Prometheus answers, such as http://prometheus-operated.monitoring:9090" -}}
{{- end -}}
{{- end -}}
{{- if and .Values.httpRoute.enabled (not .Values.httpRoute.parentRefs) -}}
{{- fail "httpRoute.parentRefs is empty: name the Gateway that the route belongs to" -}}
{{- end -}}
{{- if and .Values.ingress.enabled (not .Values.ingress.hosts) -}}
{{- fail "ingress.hosts is empty: name at least one, such as [{host: llm.example.com}]" -}}
{{- end -}}
{{- if and (not .Values.serviceAccount.create) (not .Values.serviceAccount.name) -}}
{{- fail "serviceAccount.create is false and serviceAccount.name is empty: name the account that routers shall use" -}}
{{- end -}}
{{- end -}}

{{- define "warmroute.validateRedis" -}}
{{- $redis := .Values.redis -}}
{{- $router := .Values.router -}}
{{- $several := or (gt (int $router.replicas) 1) (gt (int $router.workers) 1) $router.autoscaling.enabled $router.keda.enabled -}}
{{- if and (eq $redis.mode "none") $several -}}
{{- fail "redis.mode is none, and there are several routers or workers: each would know only the prefixes that it served itself; use builtin or external, or set router.replicas and router.workers to 1" -}}
{{- end -}}
{{- if and (eq $redis.mode "none") (eq .Values.discovery.source "redis") -}}
{{- fail "discovery.source is redis, but redis.mode is none: use builtin or external" -}}
{{- end -}}
{{- if eq $redis.mode "external" -}}
{{- with $redis.external -}}
{{- if and .urlKey (not .existingSecret) -}}
{{- fail "redis.external.urlKey is set, but redis.external.existingSecret is not: name the Secret" -}}
{{- end -}}
{{- if not .urlKey -}}
{{- if not (regexMatch "^rediss?(\\+(sentinel|cluster))?://[^/]+" .url) -}}
{{- fail (printf "redis.external.url must be redis://HOST:PORT, rediss://…, redis+sentinel://HOST:PORT,…/SERVICE or redis+cluster://HOST:PORT,…, not %q" (regexReplaceAll "//.*@" .url "//***@")) -}}
{{- end -}}
{{- if contains "@" .url -}}
{{- fail "redis.external.url holds credentials, which do not belong into values: put them into a Secret and name it in redis.external.existingSecret" -}}
{{- end -}}
{{- if and .tls.existingSecret (not (hasPrefix "rediss" .url)) -}}
{{- fail "redis.external.tls is set, but redis.external.url does not begin with rediss: it would not be encrypted" -}}
{{- end -}}
{{- end -}}
{{- if and .tls.clientCertificate (not .tls.existingSecret) -}}
{{- fail "redis.external.tls.clientCertificate needs redis.external.tls.existingSecret" -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
