{{/* What pools there are, and how routers find them. */}}

{{/*
All pools, complete: JSON of name -> settings. `model` stands for one pool named `vllm`; what a pool does not say comes
from `poolDefaults`.
*/}}
{{- define "warmroute.pools" -}}
{{- $given := .Values.pools | default dict -}}
{{- if .Values.model -}}
{{- if $given -}}
{{- fail "model and pools are both set: model is short for one pool named vllm; name the model in an entry of pools instead" -}}
{{- end -}}
{{- $given = dict "vllm" (dict "model" .Values.model) -}}
{{- end -}}
{{- $pools := dict -}}
{{- range $name, $pool := $given -}}
{{- $_ := set $pools $name (mergeOverwrite (deepCopy $.Values.poolDefaults) (deepCopy ($pool | default dict))) -}}
{{- end -}}
{{- toJson $pools -}}
{{- end -}}

{{/* Whether a pool's replicas have agents: dict "root" $ "pool" SETTINGS; "true" or nothing. */}}
{{- define "warmroute.hasAgent" -}}
{{- if and .pool.agent.enabled (ne .pool.type "external") (ne .root.Values.redis.mode "none") -}}true{{- end -}}
{{- end -}}

{{/* Pools that the chart runs itself: JSON of name -> settings. */}}
{{- define "warmroute.ownPools" -}}
{{- $own := dict -}}
{{- range $name, $pool := include "warmroute.pools" . | fromJson -}}
{{- if ne $pool.type "external" -}}{{- $_ := set $own $name $pool -}}{{- end -}}
{{- end -}}
{{- toJson $own -}}
{{- end -}}

{{- define "warmroute.poolName" -}}
{{- printf "%s-%s" (include "warmroute.fullname" .root) .name -}}
{{- end -}}

{{/* Models that a pool serves, as options of a discovery URL: they are known before the first replica is. */}}
{{- define "warmroute.modelOptions" -}}
{{- $model := .servedModelName | default .model -}}
{{- if and (not $model) (eq .type "simulated") -}}{{- $model = "sim" -}}{{- end -}}
{{- if $model -}}
{{- printf "&model=%s" (urlquery $model) -}}
{{- range .adapters -}}{{- printf "&model=%s" (urlquery .name) -}}{{- end -}}
{{- end -}}
{{- end -}}

{{/* Where routers look for replicas: JSON of {"urls": […]}. */}}
{{- define "warmroute.discovery" -}}
{{- $urls := list -}}
{{- $source := .Values.discovery.source -}}
{{- range $name, $pool := include "warmroute.pools" . | fromJson -}}
{{- $external := eq $pool.type "external" -}}
{{- $namespace := ternary (default $.Release.Namespace $pool.external.namespace) $.Release.Namespace $external -}}
{{- $service := ternary $pool.external.service (include "warmroute.poolName" (dict "root" $ "name" $name)) $external -}}
{{- $port := ternary (toString $pool.external.port) "http" $external -}}
{{- $options := include "warmroute.modelOptions" $pool -}}
{{- if ne $namespace $.Release.Namespace -}}
{{- $options = printf "%s&id_prefix=%s." $options $namespace -}}
{{- end -}}
{{- if eq $source "dns" -}}
{{- $url := printf "dns://%s.%s.svc.%s:%s" $service $namespace $.Values.clusterDomain (ternary $port "8000" $external) -}}
{{- $urls = append $urls (regexReplaceAll "^([^&]*)&" (printf "%s%s" $url (include "warmroute.modelOptions" $pool)) "${1}?") -}}
{{- else if and (eq $source "kubernetes") $service -}}
{{- $urls = append $urls (printf "kubernetes://%s/%s?port=%s%s" $namespace $service $port $options) -}}
{{- else if eq $source "kubernetes" -}}
{{- $terms := list -}}
{{- range $key, $value := $pool.external.selector -}}
{{- $terms = append $terms (printf "%s=%s" $key $value) -}}
{{- end -}}
{{- $urls = append $urls (printf "kubernetes://%s?selector=%s&port=%s%s" $namespace (urlquery (join "," $terms)) $port $options) -}}
{{- end -}}
{{- end -}}
{{- if eq $source "redis" -}}
{{- $urls = list "redis" -}}
{{- end -}}
{{- dict "urls" (concat $urls .Values.discovery.extra) | toJson -}}
{{- end -}}

{{/* Namespaces whose EndpointSlices routers read: JSON of {"names": […]}, sorted. */}}
{{- define "warmroute.watchedNamespaces" -}}
{{- $names := list -}}
{{- if eq .Values.discovery.source "kubernetes" -}}
{{- range $name, $pool := include "warmroute.pools" . | fromJson -}}
{{- if eq $pool.type "external" -}}
{{- $names = append $names (default $.Release.Namespace $pool.external.namespace) -}}
{{- else -}}
{{- $names = append $names $.Release.Namespace -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- dict "names" ($names | uniq | sortAlpha) | toJson -}}
{{- end -}}
