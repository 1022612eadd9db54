{{/* Bytes of a quantity such as 1Gi, 1.5Gi, 512Mi, 2G or a plain number; nothing if it is empty. */}}
{{- define "warmroute.bytes" -}}
{{- if kindIs "string" . -}}
{{- with . -}}
{{- $parts := regexFind "^[0-9]+([.][0-9]+)?([kMGT]|[KMGT]i)?$" . -}}
{{- if not $parts -}}
{{- fail (printf "router.resources.limits.memory is %q, which cannot be read here: write it as 1Gi, 1536Mi or the like" .) -}}
{{- end -}}
{{- $units := dict "" 1 "k" 1000 "M" 1000000 "G" 1000000000 "T" 1000000000000 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 -}}
{{- mulf (regexFind "^[0-9.]+" $parts | float64) (get $units (regexFind "[kMGTi]*$" $parts)) | int64 -}}
{{- end -}}
{{- else -}}
{{- int64 . -}}
{{- end -}}
{{- end -}}

{{/* The routers' configuration file: what the chart makes, with `router.config` over it. */}}
{{- define "warmroute.config" -}}
{{- $router := .Values.router -}}
{{- $config := dict
  "listen" (include "warmroute.listen" (dict "root" . "port" 8000))
  "admin" (include "warmroute.listen" (dict "root" . "port" 8001))
  "workers" (int $router.workers)
  "log_level" $router.logLevel
  "drain_grace_s" (int $router.drainSeconds)
  "registry" (dict "namespace" .Values.redis.namespace)
-}}
{{- with (include "warmroute.discovery" . | fromJson).urls -}}
{{- $_ := set $config "discovery" . -}}
{{- end -}}
{{- if $router.accessLog -}}
{{- $_ := set $config "access_log" (dict "enabled" true) -}}
{{- end -}}
{{- if $router.tls.existingSecret -}}
{{- $_ := set $config "tls" (dict "cert_file" "/etc/warmroute/tls/tls.crt" "key_file" "/etc/warmroute/tls/tls.key") -}}
{{- end -}}
{{- if $router.upstreamCASecret -}}
{{- $_ := set $config "tls" (merge (dict "upstream_ca_file" "/etc/warmroute/upstream-ca/ca.crt") (get $config "tls" | default dict)) -}}
{{- end -}}
{{- if $router.keys.existingSecret -}}
{{- $_ := set $config "keys" (dict "url" (printf "/etc/warmroute/keys/%s" $router.keys.key)) -}}
{{- end -}}
{{- $external := false -}}
{{- range include "warmroute.pools" . | fromJson -}}
{{- if eq .type "external" -}}{{- $external = true -}}{{- end -}}
{{- end -}}
{{- if not $external -}}
{{- $_ := set $config "upstream" (dict "keepalive_s" 60) -}}
{{- end -}}
{{- $memory := include "warmroute.bytes" (dig "limits" "memory" "" $router.resources) | int64 -}}
{{- if $memory -}}
{{- $buffered := div $memory (mul 2 (int $router.workers)) -}}
{{- $limits := dict "buffered_body_bytes" $buffered -}}
{{- if lt $buffered (int64 67108864) -}}
{{- $_ := set $limits "body_bytes" $buffered -}}
{{- end -}}
{{- $_ := set $config "limits" $limits -}}
{{- end -}}
{{- $merged := mergeOverwrite $config (deepCopy $router.config) -}}
{{- with get $merged "limits" -}}
{{- if and (hasKey . "body_bytes") (hasKey . "buffered_body_bytes") (gt (int64 .body_bytes) (int64 .buffered_body_bytes)) -}}
{{- fail (printf "router.config.limits.body_bytes is %d, but the bodies of all requests together have %d, half of router.resources.limits.memory for each worker: raise that, or set limits.buffered_body_bytes too" (int64 .body_bytes) (int64 .buffered_body_bytes)) -}}
{{- end -}}
{{- end -}}
{{- toYaml $merged -}}
{{- end -}}

{{/* Seconds from the order to end until a router is killed. */}}
{{- define "warmroute.routerGrace" -}}
{{- add (int .Values.router.preStopSeconds) (int .Values.router.drainSeconds) 15 -}}
{{- end -}}

{{/* Seconds that routers may take to be ready, since they are when the first replica is. */}}
{{- define "warmroute.routerDeadline" -}}
{{- $longest := 0 -}}
{{- range include "warmroute.ownPools" . | fromJson -}}
{{- $longest = max $longest (int .startupSeconds) -}}
{{- end -}}
{{- add $longest (int .Values.router.startupSeconds) 600 -}}
{{- end -}}
