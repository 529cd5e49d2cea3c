# SPDX-License-Identifier: Apache-2.0
# Completion for freehold(1): subcommands, then the options that a subcommand's
# own --help names, then files.
_freehold()
{
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} cmd=${COMP_WORDS[1]} words
    COMPREPLY=()
    if ((COMP_CWORD == 1)); then
        mapfile -t COMPREPLY < <(compgen -W 'serve run tokenize inspect score synth bench sim doctor key budget cost top audit udp-key --help --version' -- "$cur")
        return
    fi
    if [[ $cmd == bench ]] && ((COMP_CWORD == 2)); then
        mapfile -t COMPREPLY < <(compgen -W 'datagram engine memory peak serve speculate --help' -- "$cur")
        return
    fi
    if [[ $cmd == key ]] && ((COMP_CWORD == 2)); then
        mapfile -t COMPREPLY < <(compgen -W 'add list revoke rotate lock unlock --help' -- "$cur")
        return
    fi
    if [[ $cmd == budget ]] && ((COMP_CWORD == 2)); then
        mapfile -t COMPREPLY < <(compgen -W 'set list remove --help' -- "$cur")
        return
    fi
    if [[ $cmd == cost ]] && ((COMP_CWORD == 2)); then
        mapfile -t COMPREPLY < <(compgen -W 'usage host --help' -- "$cur")
        return
    fi
    if [[ $cmd == audit ]] && ((COMP_CWORD == 2)); then
        mapfile -t COMPREPLY < <(compgen -W 'verify show export consistency verify-receipt rebuild-usage erase-tenant --help' -- "$cur")
        return
    fi
    if [[ $cmd == bench && ${COMP_WORDS[2]} == serve ]]; then
        words=
        case $prev in
        --url) words='http:// http+unix: channel:dev channel:unix: udp://' ;;
        --endpoint) words='/v1/completions /v1/chat/completions' ;;
        --arrivals) words='poisson constant gamma: burst:' ;;
        --trace-format) words='auto burstgpt azure mooncake' ;;
        esac
        if [[ -n $words ]]; then
            mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
            return
        fi
    fi
    case $prev in
    -m | -o | --model | --config | --api-key-file | --key-file | --keys | --rental | --tls-cert | --tls-key | --tls-client-ca | --ca-file | --cert | --cert-key | --udp-key | --udp-clients | --trace | --costs | --dataset-path | --json | --csv | --svg | --calibration | --save-calibration | --compare | --audit)
        mapfile -t COMPREPLY < <(compgen -f -- "$cur")
        compopt -o filenames
        return
        ;;
    esac
    if [[ $cur == -* ]]; then
        local part=()
        [[ $cmd == bench ]] && part=("${COMP_WORDS[2]}")
        words=$("${COMP_WORDS[0]}" "$cmd" "${part[@]}" --help 2>/dev/null | grep -oE -- '(^|[ ,[])--?[a-z][a-z0-9-]*' | tr -d ' ,[')
        mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
        return
    fi
    mapfile -t COMPREPLY < <(compgen -f -- "$cur")
    compopt -o filenames
}
complete -F _freehold freehold
